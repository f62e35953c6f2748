"""A follower's side of replication (R2, R11): what an append may change, what is vouched for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tq.internal.v1 import peer_pb2
from tq_cluster.clock import Clock
from tq_cluster.errors import FatalError
from tq_cluster.raft.elections import Elections
from tq_cluster.raft.journal_door import LoggedEntry, LogJournal, last_term
from tq_cluster.raft.output import OutputCommit
from tq_cluster.raft.pysyncobj_core import PySyncObjCore
from tq_cluster.raft.settings import Rules


class Following:
    """Checks appends, lets PySyncObj take what is new in them, and answers."""

    def __init__(
        self,
        *,
        core: PySyncObjCore,
        journal: LogJournal,
        elections: Elections,
        output: OutputCommit,
        send_now: Callable[[str, peer_pb2.PeerMessage], None],
        clock: Clock,
        rules: Rules,
        rebuilding: Callable[[], bool],
        disk_low: Callable[[], bool],
        taken: Callable[[Sequence[LoggedEntry]], None],
    ) -> None:
        """``rebuilding``: whether the state ends before the journal begins.

        ``taken`` is called with entries that were added to the log.
        """
        self._core = core
        self._journal = journal
        self._elections = elections
        self._output = output
        self._send_now = send_now
        self._clock = clock
        self._rules = rules
        self._rebuilding = rebuilding
        self._disk_low = disk_low
        self._taken = taken
        self._round = 0
        self._vouched_below: int | None = None

    # ------------------------------------------------------------------ heartbeats

    def on_probe(self, peer_id: str, probe: peer_pb2.Probe) -> None:
        """A heartbeat outside the order of appends."""
        if not self.from_leader(peer_id, probe.term):
            return
        self._elections.hold_off()
        self.echo(peer_id, probe.round)

    def echo(self, peer_id: str, number: int) -> None:
        """Answer a round; vouches for the term alone, so nothing need be on disk."""
        echo = peer_pb2.Echo(
            term=self._core.term,
            round=number,
            wall_ms=self._clock.wall_ms(),
            disk_low=self._disk_low(),
        )
        self._send_now(peer_id, peer_pb2.PeerMessage(echo=echo))

    def from_leader(self, peer_id: str, term: int) -> bool:
        """Whether the sender leads this node's term, which becomes ``term`` when that is higher."""
        if term < self._core.term:
            self._elections.tell_term(peer_id)
            return False
        if self._core.leads and term == self._core.term:
            raise FatalError(f"{peer_id} leads term {term}, and so does this node")
        self._elections.adopt(term)
        self._elections.heard_from_leader(peer_id)
        return True

    def on_chunk(self, peer_id: str, chunk: peer_pb2.SnapshotChunk) -> bool:
        """Take a snapshot's piece as a heartbeat; return whether this term's leader sent it."""
        if not self.from_leader(peer_id, chunk.term):
            return False
        self._elections.hold_off()
        if not self._rules.chunks_commit_nothing:
            self._core.deliver(
                peer_id,
                {
                    "type": "append_entries",
                    "term": chunk.term,
                    "commit_index": chunk.last_index,
                    "serialized": None,
                },
            )
        self.echo(peer_id, chunk.round)
        return True

    # ------------------------------------------------------------------ appends

    def on_append(self, peer_id: str, append: peer_pb2.Append) -> None:
        if not self.from_leader(peer_id, append.term):
            return
        self._round = append.round
        entries = [
            (entry.command, append.prev_index + 1 + offset, entry.term)
            for offset, entry in enumerate(append.entries)
        ]
        message = _core_append(
            append.term, append.commit_index, append.prev_index, append.prev_term, entries
        )
        if self._rules.keep_what_matches:
            self._take(peer_id, message)
        else:
            self._core.deliver(peer_id, message)
        # The answer may wait for the disk. The answer to a heartbeat, or to a round that a caller
        # waits for, does not.
        if self._output.holding and (append.echo_now or not entries):
            self.echo(peer_id, append.round)

    def _take(self, peer_id: str, message: dict[str, Any]) -> None:
        entries: list[LoggedEntry] = message["entries"]
        prev_index, prev_term = message["prevLogIdx"], message["prevLogTerm"]
        log = self._journal
        first, last, committed = log.first_index, log.last_index, self._committed()
        if prev_index < first:
            # Entries before the first one held are committed, hence the same here and there.
            end = prev_index + len(entries)
            if end <= first:
                self._verified(peer_id, message, end)
                return
            entries = entries[first - prev_index :]
            prev_index, prev_term = first, log.term_at(first)
        elif prev_index > last:
            self._core.deliver(peer_id, message)
            return
        elif log.term_at(prev_index) != prev_term:
            self._conflict(peer_id, message)
            return
        known = 0
        while known < len(entries) and log.term_at(entries[known][1]) == entries[known][2]:
            known += 1
        if known:
            prev_index, prev_term = entries[known - 1][1], entries[known - 1][2]
        rest = entries[known:]
        if not rest:
            self._verified(peer_id, message, prev_index)
            return
        if prev_index < committed:
            raise FatalError(
                f"{peer_id}, leader of term {message['term']}, would replace entry "
                f"{prev_index + 1}, which this node holds as committed (up to {committed})"
            )
        self._core.deliver(
            peer_id, message | {"entries": rest, "prevLogIdx": prev_index, "prevLogTerm": prev_term}
        )
        self._taken(rest)

    def _committed(self) -> int:
        return max(self._core.commit_index, self._core.applied_index)

    def _conflict(self, peer_id: str, message: dict[str, Any]) -> None:
        """The previous entry differs: ask for all entries from the first of its term on."""
        log, committed, index = self._journal, self._committed(), message["prevLogIdx"]
        if index <= committed:
            raise FatalError(
                f"{peer_id}, leader of term {message['term']}, contradicts entry {index}, "
                f"which this node holds as committed (up to {committed})"
            )
        term = log.term_at(index)
        if self._rules.skip_whole_terms:
            while index - 1 > committed and log.term_at(index - 1) == term:
                index -= 1
        self._deliver_vouching(peer_id, message, max(index, committed + 1))

    def _verified(self, peer_id: str, message: dict[str, Any], up_to: int) -> None:
        """The log holds the whole append. Entries after it stay, but are not acknowledged."""
        log = self._journal
        commit_index = min(message["commit_index"], max(up_to, self._core.commit_index))
        heartbeat = _core_append(message["term"], commit_index, log.last_index, last_term(log), [])
        self._deliver_vouching(peer_id, heartbeat, up_to + 1)

    def _deliver_vouching(self, peer_id: str, message: dict[str, Any], below: int) -> None:
        self._vouched_below = below
        try:
            self._core.deliver(peer_id, message)
        finally:
            self._vouched_below = None

    def send_reply(self, peer_id: str, message: dict[str, Any]) -> None:
        """PySyncObj answers an append."""
        next_index = message["next_node_idx"]
        if self._vouched_below is not None:
            next_index = self._vouched_below
        reply = peer_pb2.AppendReply(
            term=self._core.term,
            round=self._round,
            accepted=message["success"],
            next_index=next_index,
            last_index=self._journal.last_index,
            needs_state=self._rebuilding(),
            wall_ms=self._clock.wall_ms(),
            disk_low=self._disk_low(),
        )
        self._output.send(peer_id, peer_pb2.PeerMessage(append_reply=reply))


def _core_append(
    term: int, commit_index: int, prev_index: int, prev_term: int | None, entries: list[LoggedEntry]
) -> dict[str, Any]:
    """An append in PySyncObj's form."""
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": commit_index,
        "entries": entries,
        "prevLogIdx": prev_index,
        "prevLogTerm": prev_term,
    }
