"""Output commit (rule R4): a message that vouches for the journal leaves only after its fsync."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tq.internal.v1 import peer_pb2
from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.raft.settings import Rules


class OutputCommit:
    """Holds messages until the writes that came before them are durable; keeps their order."""

    def __init__(
        self, journal: LogJournal, send: Callable[[str, peer_pb2.PeerMessage], None], rules: Rules
    ) -> None:
        self._journal = journal
        self._send = send
        self._rules = rules
        self._held: deque[tuple[int, str, peer_pb2.PeerMessage]] = deque()

    @property
    def holding(self) -> bool:
        """Whether a message sent now would wait."""
        return self._rules.answer_after_fsync and self._journal.synced_pos < self._journal.pos

    def send(self, peer_id: str, message: peer_pb2.PeerMessage) -> None:
        """Send as soon as everything written so far is on disk."""
        if not self.holding:
            self._send(peer_id, message)
            return
        self._held.append((self._journal.pos, peer_id, message))
        self._journal.request_sync()

    def release(self) -> None:
        """Send the messages that need not wait any more."""
        synced_pos = self._journal.synced_pos
        while self._held and self._held[0][0] <= synced_pos:
            _, peer_id, message = self._held.popleft()
            self._send(peer_id, message)

    def forget(self, peer_id: str) -> None:
        """The connection is gone: drop the messages held for it."""
        self._held = deque(held for held in self._held if held[1] != peer_id)
