"""The ticker: makes a leader check for work that has become due.

Time passes for the queue only through entries, so the leader checks some fifty times a second, and
has what is due decided like any other operation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tq_cluster.leader.leases import LeaseTable

TICK_S = 0.02


class Ticker:
    """Has the committer make a batch whenever something is due."""

    def __init__(self, *, leases: LeaseTable, due: Callable[[], bool]) -> None:
        self._leases = leases
        self._due = due
        self._task: asyncio.Task[None] | None = None

    def start(self, wake: Callable[[], None], ended: Callable[[asyncio.Task[None]], None]) -> None:
        """Start checking, and call ``wake`` whenever something is due, until stopped.

        ``ended`` is called when checking has ended, for any reason.
        """
        self._task = asyncio.get_running_loop().create_task(self._run(wake), name="ticker")
        self._task.add_done_callback(ended)

    def stop(self) -> None:
        """Stop checking."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, wake: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._leases.note_pass(TICK_S)
            # One more turn of the loop, so that what waits in the sockets (a heartbeat, perhaps)
            # goes first.
            await asyncio.sleep(0)
            if self._due():
                wake()
