"""What goes in comes out; what would not is refused before it is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, SecretStr, computed_field

from tq_worker.api.signatures import Signature


class Size(Enum):
    SMALL = 1
    LARGE = 2


class Named(BaseModel):
    full_name: str = Field(alias="fullName")


class Area(BaseModel):
    width: int
    height: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.width * self.height


class Forgetful(BaseModel):
    kept: int
    left_out: int = Field(default=0, exclude=True)


@dataclass
class Point:
    x: int


@dataclass
class Point3(Point):
    z: int = 0


@dataclass
class Blob:
    data: bytes


def taking(kind: object) -> Signature:
    def function(value: object) -> object:
        return value

    function.__annotations__ = {"value": kind, "return": kind}
    return Signature(function)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 2**70),
        (float, math.inf),
        (float, math.nan),
        (list[float], [1.5, math.nan]),
        (bytes, b"\xff\x00"),
        (str, "é\0\u2028"),
        (Decimal, Decimal("1.10")),
        (datetime, datetime(2030, 1, 1, tzinfo=UTC)),
        (timedelta, timedelta(days=-1, microseconds=3)),
        (UUID, UUID(int=7)),
        (Path, Path("a/b")),
        (Size, Size.LARGE),
        (set[int], {3, 1}),
        (dict[int, str], {1: "a"}),
        (tuple[int, str], (1, "a")),
        (Point, Point(1)),
        (Point | None, None),
        (Named, Named(fullName="a")),
        (Area, Area(width=2, height=3)),
        (Forgetful, Forgetful(kept=1)),
    ],
)
def test_what_goes_in_comes_out(kind: object, value: object) -> None:
    signature = taking(kind)

    back = signature.decode(signature.encode((value,), {}))["value"]
    assert back == value or repr(back) == repr(value)
    back = signature.decode_result(signature.encode_result(value))
    assert back == value or repr(back) == repr(value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (SecretStr, SecretStr("swordfish")),
        (Forgetful, Forgetful(kept=1, left_out=2)),
        (Point, Point3(1, 2)),
        (Blob, Blob(b"\xff")),
        (dict[tuple[int, int], str], {(1, 2): "a"}),
        (int, "1"),
        (list[int], [1, "2"]),
    ],
)
def test_what_would_not_come_back_equal_is_refused_by_its_name(kind: object, value: object) -> None:
    signature = taking(kind)

    refused: list[Callable[[], object]] = [
        lambda: signature.encode((value,), {}),
        lambda: signature.encode_result(value),
    ]
    with pytest.raises(TypeError, match=r"^value: ") as named:
        refused[0]()
    assert "swordfish" not in str(named.value)
    with pytest.raises(TypeError):
        refused[1]()
