"""The ticker: makes a leader check for work that has become due.

Time passes for the queue only through entries, so the leader checks whether anything is due, and
has it decided like any other operation. While the state changes, it checks some fifty times a
second. While it does not, the ticker knows when the next item becomes due, and rests until then,
but never beyond the next beat.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from tq_cluster.beats import next_beat_s
from tq_cluster.leader.leases import LeaseTable

TICK_S = 0.02


class Ticker:
    """Has the committer make a batch whenever something is due."""

    def __init__(
        self,
        *,
        leases: LeaseTable,
        due: Callable[[], bool],
        quiet_s: Callable[[], float],
        fatal: Callable[[BaseException], None],
    ) -> None:
        """``quiet_s`` returns for how long nothing becomes due unless the state changes.

        ``fatal`` receives an error of ``due``: without the ticker the queue would stop unnoticed.
        """
        self._leases = leases
        self._due = due
        self._quiet_s = quiet_s
        self._fatal = fatal
        self._loop = asyncio.get_running_loop()
        self._wake: Callable[[], None] | None = None
        """None while stopped."""
        self._next: asyncio.Handle | None = None
        """The next pass, or the look that follows it."""
        self._next_s = 0.0
        """When the next pass is due."""

    def start(self, wake: Callable[[], None]) -> None:
        """Start checking, and call ``wake`` whenever something is due, until stopped."""
        self._wake = wake
        self._pass_in(TICK_S)

    def stop(self) -> None:
        """Stop checking."""
        self._wake = None
        if self._next is not None:
            self._next.cancel()

    def changed(self) -> None:
        """Note that the state has changed: something may become due soon."""
        if self._wake is not None and self._next_s > (soon_s := self._loop.time() + TICK_S):
            self._pass_at(soon_s)

    def _pass_in(self, rest_s: float) -> None:
        now_s = self._loop.time()
        beat_s = next_beat_s(now_s) if rest_s > TICK_S else math.inf
        self._pass_at(min(now_s + rest_s, beat_s))

    def _pass_at(self, at_s: float) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next_s = at_s
        self._leases.expect_pass(at_s)
        self._next = self._loop.call_at(at_s, self._pass)

    def _pass(self) -> None:
        self._leases.note_pass()
        # One more turn of the loop, so that what waits in the sockets (a heartbeat, perhaps) goes
        # first.
        self._next = self._loop.call_soon(self._look)

    def _look(self) -> None:
        if self._wake is None:
            return
        try:
            due = self._due()
            rest_s = TICK_S if due else max(TICK_S, self._quiet_s())
        except Exception as error:  # noqa: BLE001  # handed on
            self._fatal(error)
            return
        self._pass_in(rest_s)
        if due:
            self._wake()
