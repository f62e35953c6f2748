"""How old this node's state on disk may be."""

from __future__ import annotations

from tq_cluster.clock import Clock
from tq_cluster.raft.log_api import Log, LogStatus, Role
from tq_cluster.telemetry.pairs import Pairs

HEARTBEAT_MS = 150
"""A follower learns of the leader's commit index at most this much later."""
SAMPLES_MAX = 3_000


class Staleness:
    """Records which entry was the newest committed one at which time.

    A state that holds entry i is at most as old as the newest sample whose commit index is not
    above i. No samples are taken while this node hears from no leader, so its answers grow older.
    """

    def __init__(self, *, clock: Clock, log: Log, written_ms: int) -> None:
        """``written_ms`` is when the state was last written before this start, by the wall clock.

        It stands in until the first sample: it is the last moment at which this node is known to
        have followed.
        """
        self._clock = clock
        self._log = log
        self._samples = Pairs("q")
        """(when, commit index), both rising."""
        self._fresh_at_s = clock.monotonic_s() - max(0, clock.wall_ms() - written_ms) / 1000

    def sample(self) -> None:
        """Record the cluster's commit index, if this node hears of it; called every 200 ms."""
        status = self._log.status()
        if _hears(status):
            samples = self._samples
            if samples and (samples.last[1] == status.commit_index or len(samples) >= SAMPLES_MAX):
                samples.drop_last()
            samples.append(self._clock.monotonic_s(), status.commit_index)

    def of(self, applied_index: int) -> int:
        """How old a state that holds entries up to ``applied_index`` may be, in milliseconds."""
        samples = self._samples
        while samples and samples.first[1] <= applied_index:
            self._fresh_at_s, _ = samples.first
            samples.drop_first()
        return int((self._clock.monotonic_s() - self._fresh_at_s) * 1000) + HEARTBEAT_MS


def _hears(status: LogStatus) -> bool:
    if status.role is Role.LEADER:
        return True
    if status.role is not Role.FOLLOWER or status.leader_id is None:
        return False
    leader = status.peers.get(status.leader_id)
    return leader is not None and leader.connected
