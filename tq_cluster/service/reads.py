"""The two levels a read can ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.duration_pb2 import Duration

from tq.v1 import errors_pb2, task_service_pb2
from tq_cluster.core.kernel.validation import invalid
from tq_cluster.core.model.operations import Outcome, Refused, Replied
from tq_cluster.core.reads.steps import Reader, Steps
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.reading import Reading
from tq_cluster.service.backend import Committed, Leading
from tq_cluster.service.call import Call
from tq_cluster.service.errors import refusal
from tq_cluster.service.staleness import Staleness

Query = Callable[[Scope[Reader], Any], Steps[Replied | Refused]]
"""One of the core's reads, for a request."""

NOTHING_APPLIED = 1
"""The start of every log, before its first entry."""
_STATELESS = Refused(
    reason=errors_pb2.ERROR_REASON_NO_STATE,
    message="this node has no state to read from: its cluster is not formed, or it waits for what"
    " the others have",
)


def reply_of(outcome: Outcome) -> Any:  # noqa: ANN401  # each method knows its own reply
    """Return the reply of an operation; raises CallError for a refusal."""
    if isinstance(outcome, Replied):
        return outcome.reply
    assert isinstance(outcome, Refused), outcome
    raise refusal(outcome)


class Reads:
    """Answers a read from the leader's state, or from this node's disk if LOCAL is asked for."""

    def __init__(
        self, *, leading: Leading, committed: Committed, staleness: Staleness, reading: Reading
    ) -> None:
        self._reading = reading
        self._leading = leading
        self._committed = committed
        self._staleness = staleness
        self._loop = asyncio.get_running_loop()

    async def answer(self, query: Query, request: Any, call: Call) -> Any:  # noqa: ANN401  # any read's request and reply
        """Answer ``request`` as its ``read_level`` asks."""
        if request.read_level not in task_service_pb2.ReadLevel.values():
            levels = "READ_LEVEL_LINEARIZABLE or READ_LEVEL_LOCAL"
            raise refusal(
                invalid("read_level", f"is {request.read_level}, which is none; it takes {levels}")
            )

        def asked(view: Reader) -> Steps[Replied | Refused]:
            view.holds = call.holds
            return query(Scope.of(view, call.caller.namespace), request)

        if request.read_level == task_service_pb2.READ_LEVEL_LOCAL:
            return await self._local(asked)
        return reply_of(await self._leading.read(asked))

    async def _local(self, query: Callable[[Reader], Steps[Replied | Refused]]) -> Any:  # noqa: ANN401  # as above
        stale_ms: int | None = None

        @contextmanager
        def committed() -> Iterator[View]:
            nonlocal stale_ms
            with self._committed.committed_view() as view:
                if view.applied.index <= NOTHING_APPLIED:
                    raise refusal(_STATELESS)
                if stale_ms is None:  # of the first step: later steps see newer states
                    stale_ms = self._staleness.of(view.applied.index)
                yield view

        begun_s = self._loop.time()
        outcome = await self._reading.answer(query, committed)
        reply = reply_of(outcome)
        assert stale_ms is not None
        staleness: Duration = reply.staleness
        staleness.FromMilliseconds(stale_ms + int((self._loop.time() - begun_s) * 1000))
        return reply
