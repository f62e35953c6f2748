"""The types of fields that programs share, as their models name them."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from tq_common import addresses

_WHOLE = re.compile(r"-?[0-9][0-9_]{0,17}")


class Section(BaseModel):
    """A part of a file, or all of it: it refuses fields that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def wrong(problem: str) -> PydanticCustomError:
    """Make the error of a value that says itself what was given.

    To a ValueError of a validator, `load` appends the value.
    """
    return PydanticCustomError("wrong", "{problem}", {"problem": problem})


def whole(least: int, most: int, value: object) -> int:
    """Read a whole number, or its text; ValueError if it is none or outside its limits."""
    number = value
    if isinstance(value, str) and _WHOLE.fullmatch(text := value.strip()):
        try:
            number = int(text)
        except ValueError:  # as of 1__0
            number = None
    if isinstance(number, int) and not isinstance(number, bool) and least <= number <= most:
        return number
    raise ValueError(f"must be a whole number from {least} to {most}")


def whole_number(least: int, most: int) -> BeforeValidator:
    """Annotate a number with its limits."""
    return BeforeValidator(partial(whole, least, most))


def _ratio(value: object) -> float:
    ratio = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            ratio = float(value)
        except (ValueError, OverflowError):
            ratio = math.nan
    if 0 <= ratio <= 1:
        return ratio
    raise ValueError("must be a number from 0 to 1")


def _address(value: str) -> str:
    addresses.split(value)
    return value


def _endpoint(value: str) -> str:
    address = value.removeprefix("http://").removeprefix("https://").removesuffix("/")
    if "/" in address:
        raise ValueError("must be host:port, with nothing, http:// or https:// before it")
    addresses.split(address)
    return value


Address = Annotated[str, AfterValidator(_address)]
"""``host:port`` or ``[ipv6]:port``."""
Endpoint = Annotated[str, AfterValidator(_endpoint)]
"""The same, with http:// or https:// before it if needed."""
Ratio = Annotated[float, BeforeValidator(_ratio)]
"""A share of all, 0 to 1."""
