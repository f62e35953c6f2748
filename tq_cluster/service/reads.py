"""The two levels a read can ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from tq.v1 import errors_pb2, task_service_pb2
from tq_cluster.core import queries
from tq_cluster.core.operations import Outcome, Refused, Replied
from tq_cluster.core.types import TimestampMs
from tq_cluster.core.validation import invalid
from tq_cluster.core.view import View
from tq_cluster.service.backend import Committed, Leading
from tq_cluster.service.errors import refusal
from tq_cluster.service.staleness import Staleness

Query = Callable[[View, Any, TimestampMs], Replied | Refused]
"""One of the core's reads: of a view, for a request, at an instant of log time."""


NOTHING_APPLIED = 1
"""Where every log begins, before its first entry of any meaning."""
_STATELESS = Refused(
    reason=errors_pb2.ERROR_REASON_NO_STATE,
    message="this node has no state to read from: its cluster is not formed, or it waits for what"
    " the others have",
)


def reply_of(outcome: Outcome) -> Any:  # noqa: ANN401  # each method knows its own reply
    """The reply that an operation led to; raises CallError for a refusal."""
    if isinstance(outcome, Replied):
        return outcome.reply
    assert isinstance(outcome, Refused), outcome
    raise refusal(outcome)


class Reads:
    """Answers a read from the leader's state, or from this node's disk where LOCAL is asked for."""

    def __init__(self, *, leading: Leading, committed: Committed, staleness: Staleness) -> None:
        self._leading = leading
        self._committed = committed
        self._staleness = staleness

    async def answer(self, query: Query, request: Any) -> Any:  # noqa: ANN401  # any read's request and reply
        """Answer ``request`` as its ``read_level`` asks."""
        if request.read_level not in task_service_pb2.ReadLevel.values():
            levels = "READ_LEVEL_LINEARIZABLE or READ_LEVEL_LOCAL"
            raise refusal(
                invalid("read_level", f"is {request.read_level}, which is none; it takes {levels}")
            )
        if request.read_level == task_service_pb2.READ_LEVEL_LOCAL:
            return self._local(query, request)

        def ask(view: View) -> Outcome:
            return query(view, request, queries.log_time(view))

        return reply_of(await self._leading.read(ask))

    def _local(self, query: Query, request: Message) -> Any:  # noqa: ANN401  # as above
        with self._committed.committed_view() as view:
            applied = view.applied
            if applied.index <= NOTHING_APPLIED:
                raise refusal(_STATELESS)
            outcome = query(view, request, queries.log_time(view))
        reply = reply_of(outcome)
        staleness: Duration = reply.staleness
        staleness.FromMilliseconds(self._staleness.of(applied.index))
        return reply
