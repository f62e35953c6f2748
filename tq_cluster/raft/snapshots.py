"""Snapshots between nodes (R5, R6): for a follower that needs entries no longer in the journal.

A transfer belongs to one connection and one term; each piece names its file and its offset. The
receiver checks the whole file before it installs it, and never replaces a log that holds the
snapshot's last entry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tq.internal.v1 import peer_pb2
from tq_cluster.clock import Clock
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import TqError
from tq_cluster.raft import frames
from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.raft.peers import Peers
from tq_cluster.raft.pysyncobj_core import PySyncObjCore
from tq_cluster.raft.settings import RaftSettings

_logger = logging.getLogger(__name__)

_WINDOW_CHUNKS = 8
"""How many pieces may be on their way."""


class SnapshotError(TqError):
    """A snapshot could not be made or installed. Nothing has changed."""


class Outgoing(Protocol):
    """A committed state in a file."""

    @property
    def applied(self) -> AppliedAt:
        """The entry that it ends with."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def crc(self) -> int:
        """CRC-32 of the whole file."""

    def read(self, offset: int, size: int) -> bytes: ...

    def discard(self) -> None:
        """Release the file: it is not needed any more."""


class Incoming(Protocol):
    """A file that is being received."""

    def write(self, data: bytes) -> None:
        """Append. Raises OSError."""

    def discard(self) -> None: ...


class States(Protocol):
    """Makes files from the state, and the state from files; slow work runs off the loop."""

    def make(self, made: Callable[[Outgoing | Exception], None]) -> None:
        """Copy the committed state; call ``made`` on the loop, with SnapshotError if it fails."""

    def receive(self, applied: AppliedAt, size_bytes: int, crc: int) -> Incoming:
        """Begin a file. Raises SnapshotError if there is no room, for instance, or OSError."""

    def install(self, incoming: Incoming, installed: Callable[[Exception | None], None]) -> None:
        """Check the file and put it in the state's place; call ``installed`` on the loop.

        From then on the replica's state machine is at the snapshot's entry, durably.
        """

    def journal_agrees(self) -> None:
        """The journal has been brought in line with what was installed."""


@dataclass(slots=True)
class _Transfer:
    file: Outgoing
    sent_bytes: int = 0
    received_bytes: int = 0


class SnapshotSending:
    """A leader's side."""

    def __init__(
        self,
        *,
        core: PySyncObjCore,
        journal: LogJournal,
        peers: Peers,
        states: States,
        settings: RaftSettings,
        now_s: Callable[[], float],
        current_round: Callable[[], int],
        durable_index: Callable[[], int],
        guarded: Callable[[Callable[[], None]], None],
    ) -> None:
        """``durable_index``: the entry that the state on disk ends with."""
        self._core = core
        self._journal = journal
        self._peers = peers
        self._states = states
        self._settings = settings
        self._now_s = now_s
        self._current_round = current_round
        self._durable_index = durable_index
        self._guarded = guarded
        self._transfers: dict[str, _Transfer] = {}
        self._file: Outgoing | None = None
        self._making_from: int | None = None
        """The entry that the copy being made ends at, or after; None if none is being made."""
        self._catching_up: dict[str, int] = {}
        """Per peer that has installed a snapshot and lacks later entries: how far it has got."""
        self._not_before_s = float("-inf")

    def send_to(self, peer_id: str) -> None:
        """Continue to send the peer a snapshot, or begin one."""
        transfer = self._transfers.get(peer_id)
        if transfer is not None and self._is_overtaken(transfer.file):
            _logger.warning("the journal was cut under a snapshot", extra={"peer": peer_id})
            transfer = None
        if transfer is None:
            file = self._usable_file()
            if file is None:
                return
            _logger.info("sends a snapshot", extra={"peer": peer_id, "index": file.applied.index})
            transfer = self._transfers[peer_id] = _Transfer(file)
        window_bytes = _WINDOW_CHUNKS * self._settings.snapshot_chunk_bytes
        while (
            transfer.sent_bytes < transfer.file.size_bytes
            and transfer.sent_bytes - transfer.received_bytes < window_bytes
            and self._peers.backlog_bytes(peer_id) <= self._settings.backlog_bytes
        ):
            self._send_chunk(peer_id, transfer)

    def _send_chunk(self, peer_id: str, transfer: _Transfer) -> None:
        file = transfer.file
        data = file.read(transfer.sent_bytes, self._settings.snapshot_chunk_bytes)
        chunk = peer_pb2.SnapshotChunk(
            term=self._core.term,
            round=self._current_round(),
            last_index=file.applied.index,
            last_term=file.applied.term,
            file_bytes=file.size_bytes,
            file_crc=file.crc,
            offset=transfer.sent_bytes,
            data=data,
        )
        transfer.sent_bytes += len(data)
        encoded = frames.encode(peer_pb2.PeerMessage(snapshot_chunk=chunk))
        self._peers.send_in_order(peer_id, encoded)

    def _usable_file(self) -> Outgoing | None:
        """A snapshot that the journal continues; if there is none, begin to make one."""
        file = self._file
        if self._now_s() < self._not_before_s:
            return None
        if file is not None and not self._is_overtaken(file):
            return file
        if self._making_from is None:
            self._making_from = self._durable_index()
            self._states.make(lambda outcome: self._guarded(lambda: self._made(outcome)))
        return None

    def _made(self, outcome: Outgoing | Exception) -> None:
        self._making_from = None
        if isinstance(outcome, SnapshotError):
            _logger.warning("no snapshot was made", extra={"reason": str(outcome)})
            self._pause()
            return
        if isinstance(outcome, Exception):
            raise outcome
        self._drop_file()
        self._file = outcome

    def _drop_file(self) -> None:
        self._transfers.clear()
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _pause(self) -> None:
        self._not_before_s = self._now_s() + self._settings.snapshot_retry_s

    def on_reply(self, peer_id: str, reply: peer_pb2.SnapshotReply) -> int | None:
        """Take the peer's progress; return the entry that it reaches if it is done, else None."""
        transfer = self._transfers.get(peer_id)
        if not self._core.leads or reply.term != self._core.term or transfer is None:
            return None
        if transfer.file.applied.index != reply.last_index:
            return None
        if reply.failed:
            _logger.warning("snapshot failed", extra={"peer": peer_id, "index": reply.last_index})
            del self._transfers[peer_id]
            self._pause()
        elif reply.installed:
            del self._transfers[peer_id]
            self._catching_up[peer_id] = reply.last_index
            if not self._transfers:
                self._drop_file()
            return reply.last_index
        else:
            received_bytes = min(reply.received_bytes, transfer.sent_bytes)
            transfer.received_bytes = max(transfer.received_bytes, received_bytes)
            self.send_to(peer_id)
        return None

    def kept_from(self) -> int | None:
        """The entry from which on followers need the journal; None if no follower needs it.

        A follower continues from the journal after its snapshot: if the journal were cut meanwhile,
        the whole transfer would begin again.
        """
        durable_index = self._durable_index()
        for peer_id in list(self._catching_up):
            reached = max(self._catching_up[peer_id], self._core.match_index(peer_id))
            self._catching_up[peer_id] = reached
            if reached >= durable_index:
                del self._catching_up[peer_id]
        needed = [*self._catching_up.values()]
        needed += [transfer.file.applied.index for transfer in self._transfers.values()]
        if self._making_from is not None:
            needed.append(self._making_from)
        elif self._file is not None and not self._transfers and self._is_overtaken(self._file):
            # No peer uses it, and the journal no longer continues it: free its disk space.
            self._drop_file()
        return min(needed, default=None)

    def _is_overtaken(self, file: Outgoing) -> bool:
        return file.applied.index < self._journal.first_index

    def peer_down(self, peer_id: str) -> None:
        """A transfer ends with its connection."""
        self._transfers.pop(peer_id, None)
        self._catching_up.pop(peer_id, None)

    def end_leadership(self) -> None:
        """A transfer ends with its term."""
        self._catching_up.clear()
        self._drop_file()


class SnapshotReceiving:
    """A follower's side."""

    def __init__(
        self,
        *,
        core: PySyncObjCore,
        journal: LogJournal,
        applied: Callable[[], AppliedAt],
        states: States,
        settings: RaftSettings,
        clock: Clock,
        send_durable: Callable[[str, peer_pb2.PeerMessage], None],
        installed: Callable[[], None],
        guarded: Callable[[Callable[[], None]], None],
    ) -> None:
        self._core = core
        self._journal = journal
        self._applied = applied
        self._states = states
        self._rules = settings.rules
        self._clock = clock
        self._send_durable = send_durable
        self._has_installed = installed
        self._guarded = guarded
        self._source: tuple[str, int, AppliedAt, int, int] | None = None
        self._incoming: Incoming | None = None
        self._received_bytes = 0
        self.installing = False
        """A snapshot is about to replace the state: nothing may be applied to it."""

    def on_chunk(self, peer_id: str, chunk: peer_pb2.SnapshotChunk) -> None:
        """Take a piece from the leader of this node's term."""
        if self.installing:
            return
        at = AppliedAt(chunk.last_index, chunk.last_term)
        if self._rules.verified_snapshots and self._holds(at):
            self._forget()
            self._reply(peer_id, chunk, installed=True)
            return
        source = (peer_id, chunk.term, at, chunk.file_bytes, chunk.file_crc)
        try:
            if chunk.offset == 0:
                self._forget()
                self._incoming = self._states.receive(at, chunk.file_bytes, chunk.file_crc)
                self._source = source
            if not self._fits(source, chunk.offset):
                self._fail(peer_id, chunk, "a piece is missing")
                return
            assert self._incoming is not None
            self._incoming.write(chunk.data)
        except (OSError, SnapshotError) as error:
            self._fail(peer_id, chunk, str(error))
            return
        self._received_bytes += len(chunk.data)
        if chunk.offset + len(chunk.data) < chunk.file_bytes:
            self._reply(peer_id, chunk)
            return
        incoming, self._incoming = self._incoming, None
        self._source = None
        self.installing = True
        self._states.install(
            incoming,
            lambda error: self._guarded(lambda: self._installed(peer_id, chunk, at, error)),
        )

    def _holds(self, at: AppliedAt) -> bool:
        """Whether state and log together have all that the snapshot has."""
        applied = self._applied()
        if applied.index >= at.index:
            return True
        if applied.index < self._journal.first_index:
            return False
        return self._journal.term_at(at.index) == at.term

    def _fits(self, source: tuple[str, int, AppliedAt, int, int], offset: int) -> bool:
        if self._incoming is None:
            return False
        if not self._rules.verified_snapshots:
            return True
        return source == self._source and offset == self._received_bytes

    def _installed(
        self,
        peer_id: str,
        chunk: peer_pb2.SnapshotChunk,
        at: AppliedAt,
        error: Exception | None,
    ) -> None:
        self.installing = False
        if isinstance(error, SnapshotError):
            self._fail(peer_id, chunk, str(error))
            return
        if error is not None:
            raise error
        keeps_log = self._journal.term_at(at.index) == at.term
        if not (keeps_log and self._rules.verified_snapshots):
            self._journal.reset(at.index, at.term)
        self._core.applied_index = at.index
        self._core.commit_index = max(self._core.commit_index, at.index)
        _logger.info("installed a snapshot", extra={"index": at.index, "log_kept": keeps_log})
        self._states.journal_agrees()
        self._reply(peer_id, chunk, installed=True)
        self._has_installed()

    def _fail(self, peer_id: str, chunk: peer_pb2.SnapshotChunk, reason: str) -> None:
        _logger.warning("snapshot refused", extra={"peer": peer_id, "reason": reason})
        self._forget()
        self._reply(peer_id, chunk, failed=True)

    def _reply(
        self,
        peer_id: str,
        chunk: peer_pb2.SnapshotChunk,
        *,
        installed: bool = False,
        failed: bool = False,
    ) -> None:
        reply = peer_pb2.SnapshotReply(
            term=self._core.term,
            last_index=chunk.last_index,
            received_bytes=self._received_bytes,
            installed=installed,
            failed=failed,
            wall_ms=self._clock.wall_ms(),
        )
        self._send_durable(peer_id, peer_pb2.PeerMessage(snapshot_reply=reply))

    def _forget(self) -> None:
        if self._incoming is not None:
            self._incoming.discard()
        self._incoming = None
        self._source = None
        self._received_bytes = 0

    def peer_down(self, peer_id: str) -> None:
        """A transfer ends with its connection."""
        if self._source is not None and self._source[0] == peer_id and not self.installing:
            self._forget()
