"""The common part of all services' calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from google.protobuf.message import Message

from tq_client.calls import Caller
from tq_client.enums import ReadLevel

if TYPE_CHECKING:
    from tq.v1 import task_service_pb2

    Level: TypeAlias = task_service_pb2.ReadLevel.ValueType

AnyMessage = TypeVar("AnyMessage", bound=Message)


class Service:
    """One service's calls; `AsyncClient` has them all."""

    _caller: Caller
    _timeout_s: float

    def _within(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else timeout_s


def level(read_level: ReadLevel) -> Level:
    """Convert a read level for a request."""
    return cast("Level", read_level)


def copy(message: AnyMessage) -> AnyMessage:
    """Copy a request that is used again: a call writes request_id and retry_age into it."""
    made = type(message)()
    made.CopyFrom(message)
    return made
