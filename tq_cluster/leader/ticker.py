"""What becomes due by itself: run_at, backoffs, leases, retention.

Time passes for the queue only through entries, so the leader looks, a few times a second, whether
something is due and has it decided like any other operation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from tq_cluster.core import queries
from tq_cluster.core.operations import ExpireLeases, MakeDue, Operation, RemoveRetired
from tq_cluster.core.types import TimestampMs
from tq_cluster.core.view import View
from tq_cluster.leader.leases import LeaseTable

TICK_S = 0.02
RETIRE_S = 1.0
SLICE_MAX = 200
"""How many leases, due tasks or retired rows one batch takes on."""


class Ticker:
    """Finds the leader's own work; the committer asks for it as it puts a batch together."""

    def __init__(
        self,
        *,
        leases: LeaseTable,
        view: Callable[[], View],
        now_ms: Callable[[], TimestampMs],
        others: Callable[[], Iterable[Operation]] = tuple,
    ) -> None:
        """``others`` is asked for operations of the leader's own that time alone does not bring."""
        self._leases = leases
        self._view = view
        self._now_ms = now_ms
        self._others = others
        self._retire_at_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self, wake: Callable[[], None], ended: Callable[[asyncio.Task[None]], None]) -> None:
        """Begin to look, and call ``wake`` whenever something is due, until stopped.

        ``ended`` is told when looking has ended, for whatever reason.
        """
        self._task = asyncio.get_running_loop().create_task(self._run(wake), name="ticker")
        self._task.add_done_callback(ended)

    def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def operations(self) -> Iterator[Operation]:
        """What is due now, in slices."""
        if self._task is None:
            return
        expired = self._leases.expired(SLICE_MAX)
        if expired:
            yield ExpireLeases(leases=expired)
        due_ms = queries.next_due_ms(self._view())
        if due_ms is not None and due_ms <= self._now_ms():
            yield MakeDue(tasks_max=SLICE_MAX)
        loop_s = asyncio.get_running_loop().time()
        if loop_s >= self._retire_at_s:
            retired_ms = queries.next_retired_ms(self._view())
            if retired_ms is not None and retired_ms <= self._now_ms():
                yield RemoveRetired(rows_max=SLICE_MAX)
            else:
                self._retire_at_s = loop_s + RETIRE_S
        yield from self._others()

    async def _run(self, wake: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._leases.note_pass(TICK_S)
            # One more turn of the loop: what waits in the sockets (a heartbeat, perhaps) goes
            # first.
            await asyncio.sleep(0)
            if next(self.operations(), None) is not None:
                wake()
