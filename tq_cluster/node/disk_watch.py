"""Watches a node's disk: refuses new tasks in time, and hands leadership to a better disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from tq_cluster.errors import NotLeaderError
from tq_cluster.raft.log_api import LogStatus, Role
from tq_cluster.storage.headroom import Headroom

_logger = logging.getLogger(__name__)

SLOW_S: Final = 0.5
"""A write this slow is logged; such an fsync counts against a leader with faster followers."""
SLOW_FSYNCS: Final = 3
SLOW_WITHIN_S: Final = 10.0
"""A leader with so many slow fsyncs within ``SLOW_WITHIN_S`` hands over."""
STUCK_S: Final = 1.0
"""A leader hands over once one fsync takes so long, without waiting for its end."""
HAND_OVER_S: Final = 1.0
AGAIN_S: Final = 10.0
"""If every disk is slow, leadership moves no more often than this."""

HandOver = Callable[[str | None, float], Awaitable[str]]


class DiskWatch:
    """Receives every tick and every fsync, on the loop."""

    def __init__(
        self,
        headroom: Headroom,
        *,
        members: int,
        hand_over: HandOver,
        fatal: Callable[[BaseException], None],
    ) -> None:
        """``hand_over`` is the log's ``transfer_leadership``."""
        self.headroom = headroom
        self._majority = members // 2 + 1
        self._hand_over = hand_over
        self._fatal = fatal
        self._loop = asyncio.get_running_loop()
        self._handing_over: asyncio.Task[None] | None = None
        self._not_before_s = self._loop.time()
        self._laying: asyncio.Future[None] | None = None
        self._slow_at_s: list[float] = []
        self._counted = False
        """Whether the fsync under way is counted already."""
        self.pressure = False
        """Fewer members than a majority have room: no new tasks are to be created."""

    @property
    def message(self) -> str:
        """A warning about the disk for operators; empty while there is none."""
        if not self.headroom.low:
            return ""
        given_up = "" if self.headroom.has_ballast else ", its ballast is given up"
        return f"the disk is nearly full: {self.headroom.free_bytes >> 20} MiB free{given_up}"

    def tick(self, status: LogStatus, fsync_running_s: float) -> None:
        """Check the disk; ``fsync_running_s`` is how long the fsync under way has run."""
        low = self.headroom.look()
        if self.headroom.wants_ballast and self._laying is None:
            self._laying = self._loop.run_in_executor(None, self.headroom.lay_ballast)
            self._laying.add_done_callback(self._laid)
        near = [name for name, peer in status.peers.items() if peer.connected]
        roomy = [name for name in near if not status.peers[name].disk_low]
        # Without a majority nothing is committed, and its disks are not known: a leader that has
        # just begun would refuse tasks though every disk has room.
        known = low or 1 + len(near) >= self._majority
        self.pressure = known and len(roomy) + (not low) < self._majority
        if status.role is not Role.LEADER:
            return
        if self._is_slower(status, fsync_running_s):
            self._give_way("slow disk", None)
        elif low and not self.pressure:
            # The others can go on without this disk; as their leader it would hold them back.
            self._give_way(
                "disk nearly full", max(roomy, key=lambda n: status.peers[n].match_index)
            )

    def took(self, what: str, seconds: float) -> None:
        """Log a write of ``what`` if it took too long."""
        if seconds >= SLOW_S:
            _logger.warning("slow disk", extra={"what": what, "seconds": round(seconds, 3)})

    def stop(self) -> None:
        """Begin no more work."""
        if self._handing_over is not None:
            self._handing_over.cancel()

    async def stopped(self) -> None:
        """Return once no work is left in the data directory: after ``stop``.

        Errors until then are still passed to ``fatal``.
        """
        if self._laying is not None:
            await asyncio.wait([self._laying])

    def _is_slower(self, status: LogStatus, fsync_running_s: float) -> bool:
        """Whether a follower's disk is faster: it holds what the fsync under way is writing.

        If no follower holds it, the disks are equally slow, and a change of leader gains nothing.
        """
        if fsync_running_s < SLOW_S:
            self._counted = False
            return False
        if not any(
            peer.connected and not peer.disk_low and peer.match_index > status.durable_index
            for peer in status.peers.values()
        ):
            return False
        now_s = self._loop.time()
        if not self._counted:
            self._counted = True
            self._slow_at_s = [at_s for at_s in self._slow_at_s if now_s - at_s < SLOW_WITHIN_S]
            self._slow_at_s.append(now_s)
        return fsync_running_s >= STUCK_S or len(self._slow_at_s) >= SLOW_FSYNCS

    def _laid(self, done: asyncio.Future[None]) -> None:
        self._laying = None
        if not done.cancelled() and (error := done.exception()) is not None:
            self._fatal(error)

    def _give_way(self, why: str, target_id: str | None) -> None:
        under_way = self._handing_over is not None and not self._handing_over.done()
        if under_way or self._loop.time() < self._not_before_s:
            return
        self._not_before_s = self._loop.time() + AGAIN_S
        self._handing_over = self._loop.create_task(self.hand_over(why, target_id))

    async def hand_over(self, why: str, target_id: str | None = None) -> None:
        """Hand leadership to ``target_id``; if None, to the follower that has most."""
        try:
            leader_id = await self._hand_over(target_id, HAND_OVER_S)
        except (NotLeaderError, TimeoutError) as error:
            _logger.warning("nobody took over", extra={"why": why, "reason": str(error)})
        else:
            _logger.info("leadership handed over", extra={"why": why, "leader_id": leader_id})
