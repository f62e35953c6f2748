"""Which dead letters are meant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

from tq.v1 import queue_service_pb2

if TYPE_CHECKING:
    from tq.v1.task_pb2 import FailureReason as _FailureReason
    from tq_client.enums import FailureReason


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Those dead letters to which all that is given here applies."""

    type: str = ""
    """Of this type."""
    error: str = ""
    """With this text, of at most 1 KiB, anywhere in their last error."""
    reason: FailureReason | None = None
    """Given up for this reason."""
    failed_after: datetime | None = None
    """That failed at this instant, with a time zone, or after it."""
    failed_before: datetime | None = None
    """That failed before this instant, with a time zone."""

    def __post_init__(self) -> None:
        """Raise TypeError if a value has the wrong type, ValueError if an instant has no zone."""
        for name in ("type", "error"):
            text: object = getattr(self, name)
            if not isinstance(text, str):
                raise TypeError(f"{name}={text!r}: it takes a str")
        for name in ("failed_after", "failed_before"):
            instant: object = getattr(self, name)
            if instant is None:
                continue
            if not isinstance(instant, datetime):
                raise TypeError(f"{name}={instant!r}: it takes a datetime with a time zone")
            if instant.tzinfo is None:
                raise ValueError(f"{name}={instant}: give it a time zone")

    @property
    def message(self) -> queue_service_pb2.DeadLetterFilter:
        """The filter as a request holds it."""
        message = queue_service_pb2.DeadLetterFilter(type=self.type, error=self.error)
        if self.reason is not None:
            message.reason = cast("_FailureReason.ValueType", self.reason)
        if self.failed_after is not None:
            message.failed_after.FromDatetime(self.failed_after)
        if self.failed_before is not None:
            message.failed_before.FromDatetime(self.failed_before)
        return message
