"""Rounds (rule R13): how a leader knows that it still led at an instant after a question was asked.

Every message of a leader to its followers carries the number of its latest round. A follower echoes
it with its own term. A majority that echoed a round in the leader's own term was still in that term
after the round began, so no node can have led a later one by then. No clock is involved.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import NotLeaderError


class Rounds:
    """Counts rounds and echoes; wakes those who wait for a round."""

    def __init__(self, peer_ids: Sequence[str], majority: int, keep_s: float) -> None:
        self._peer_ids = tuple(peer_ids)
        self._echoes_needed = majority - 1
        self._keep_s = keep_s
        self._latest = 0
        self._begun_s: dict[int, float] = {}
        self._order: deque[int] = deque()
        self._echoed: dict[str, int] = {}
        self._waiters: deque[tuple[int, asyncio.Future[AppliedAt]]] = deque()

    @property
    def latest(self) -> int:
        """The number that the next message carries."""
        return self._latest

    @property
    def wanted(self) -> bool:
        """Whether someone waits for a round that has not begun."""
        return bool(self._waiters) and self._waiters[-1][0] > self._latest

    @property
    def under_way(self) -> bool:
        """Whether someone waits for a round that has begun."""
        return bool(self._waiters) and self._waiters[0][0] <= self._latest

    def begin(self, now_s: float) -> int:
        """Begin a round: its messages are about to be sent."""
        self._latest += 1
        self._begun_s[self._latest] = now_s
        self._order.append(self._latest)
        while self._begun_s[self._order[0]] < now_s - self._keep_s:
            del self._begun_s[self._order.popleft()]
        return self._latest

    def echoed(self, peer_id: str, number: int) -> float | None:
        """A follower echoed; when the round began, None if that is too long ago."""
        if number > self._echoed.get(peer_id, 0):
            self._echoed[peer_id] = number
        return self._begun_s.get(number)

    def confirmed(self) -> int:
        """The latest round that a majority, this node included, has echoed."""
        if self._echoes_needed == 0:
            return self._latest
        echoes = sorted((self._echoed.get(peer_id, 0) for peer_id in self._peer_ids), reverse=True)
        return echoes[self._echoes_needed - 1]

    def wait(self, future: asyncio.Future[AppliedAt]) -> None:
        """Resolve ``future`` at a round that begins after this call."""
        self._waiters.append((self._latest + 1, future))

    def resolve(self, applied: AppliedAt) -> None:
        """Wake those whose round is confirmed; ``applied`` holds this term's no-op."""
        if not self._waiters:
            return
        confirmed = self.confirmed()
        while self._waiters and self._waiters[0][0] <= confirmed:
            _, future = self._waiters.popleft()
            if not future.done():
                future.set_result(applied)

    def end_leadership(self, leader_id: str | None) -> None:
        """Forget this term's rounds; those who wait for one get NotLeaderError."""
        self._echoed.clear()
        self._begun_s.clear()
        self._order.clear()
        waiters, self._waiters = self._waiters, deque()
        for _, future in waiters:
            if not future.done():
                future.set_exception(NotLeaderError(leader_id))
