"""Which dead letters a list, a redrive or a deletion is about."""

from __future__ import annotations

from typing import Final, TypeAlias

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2
from tq_cluster.core.kernel.ready_order import type_digest
from tq_cluster.core.kernel.validation import check_instant, check_type, invalid
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.model.proto_time import to_ms_up
from tq_cluster.core.reads.describe import last_error
from tq_cluster.core.rows import rows
from tq_cluster.core.rows.view import View
from tq_common.limits import FILTER_ERROR_BYTES_MAX

Request: TypeAlias = (
    queue_service_pb2.ListDeadLettersRequest
    | queue_service_pb2.RedriveRequest
    | queue_service_pb2.DeleteDeadLettersRequest
)
_FOREVER_MS: Final = 1 << 62


class DeadLetterFilter:
    """A valid filter of a request; without one it takes every dead letter."""

    __slots__ = ("_digest", "_error", "_reason", "_type", "from_ms", "until_ms")

    def __init__(self, chosen: queue_service_pb2.DeadLetterFilter) -> None:
        self._type = chosen.type
        self._digest = type_digest(chosen.type) if chosen.type else 0
        self._error = chosen.error
        self._reason = chosen.reason
        self.from_ms = to_ms_up(chosen.failed_after)
        """Those that failed at this instant of log time or after it."""
        has_end = chosen.HasField("failed_before")
        self.until_ms = to_ms_up(chosen.failed_before) if has_end else _FOREVER_MS
        """Those that failed before this instant."""

    def takes(self, view: View, prefix: bytes, number: int, row: state_pb2.TaskRow) -> bool:
        """Return whether it is about a dead letter from its time, by a few rows more at most."""
        if self._reason and row.failure_reason != self._reason:
            return False
        if self._type:
            # Rows of older versions have no digest.
            if row.type_digest and row.type_digest != self._digest:
                return False
            if rows.read_spec(view, prefix, number).type != self._type:
                return False
        return not self._error or self._error in last_error(view, prefix, number, row)


def filter_of(request: Request) -> DeadLetterFilter | Refused:
    """Return a request's filter, or what is wrong with it."""
    chosen = request.filter
    if chosen.type and (fault := check_type("filter.type", chosen.type)) is not None:
        return fault
    size = len(chosen.error.encode())
    if size > FILTER_ERROR_BYTES_MAX:
        return invalid(
            "filter.error", f"has {size} bytes; it takes at most {FILTER_ERROR_BYTES_MAX}"
        )
    if chosen.reason not in task_pb2.FailureReason.values():
        return invalid("filter.reason", f"is {chosen.reason}; it takes a FailureReason")
    for name, instant in (
        ("failed_after", chosen.failed_after),
        ("failed_before", chosen.failed_before),
    ):
        if (fault := check_instant(f"filter.{name}", instant)) is not None:
            return fault
    return DeadLetterFilter(chosen)
