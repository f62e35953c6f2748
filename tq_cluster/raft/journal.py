"""The log on disk: entries, truncations, term and vote in one ordered stream of checked records.

What a crash or a power cut leaves is a prefix of that stream, at least as long as what was reported
as synced. The stream is cut into segment files (records.py says how they look). Writing and fsync
happen in the syncer's thread, one batch at a time; everything else on the loop. Old entries are
read back from the files when a follower needs them.

The methods in camelCase are those that PySyncObj calls; they take positions, the others indexes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, overload

from tq_cluster.errors import DiskError, FatalError
from tq_cluster.raft.disk import Disk
from tq_cluster.raft.journal_batch import Batch
from tq_cluster.raft.journal_files import Opened, Segment, open_files, segment_name
from tq_cluster.raft.log_index import LogIndex, Place
from tq_cluster.raft.records import (
    PREAMBLE,
    DamagedError,
    Header,
    Kind,
    Vote,
    command_of,
    encode,
    entry_head,
    header_payload,
    truncate_payload,
    vote_payload,
)
from tq_cluster.raft.syncer import Syncer

LoggedEntry = tuple[bytes, int, int]
"""(command, index, term): PySyncObj's form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLimits:
    """How much is kept, and where."""

    segment_bytes: int = 8 * 2**20
    """A segment that has reached this is followed by another."""
    retain_bytes: int = 64 * 2**20
    retain_entries: int = 50_000
    """Compaction leaves so many bytes or entries, whichever is less, for peers that were away."""
    cache_bytes: int = 16 * 2**20
    """The newest commands, up to this size, are kept in memory."""


DEFAULT_LIMITS: Final = JournalLimits()


class Journal:
    """The log of one node. Used on the loop's thread."""

    def __init__(
        self,
        disk: Disk,
        syncer: Syncer,
        *,
        on_fatal: Callable[[FatalError], None],
        limits: JournalLimits = DEFAULT_LIMITS,
    ) -> None:
        """Read what the disk holds; StartError when it is damaged.

        ``on_fatal`` is called if a write or an fsync fails: the process must end.
        """
        self._disk = disk
        self._syncer = syncer
        self._on_fatal = on_fatal
        self._limits = limits
        opened: Opened = open_files(disk)
        self._index: LogIndex = opened.index
        self._vote: Vote = opened.vote
        self._segments: list[Segment] = opened.segments
        self._commands: dict[int, bytes] = {}
        self._cached_from = self._index.last + 1
        self._cached_bytes = 0
        self._listeners: list[Callable[[], None]] = []
        self._failed = False
        self._batch = Batch()
        self._in_flight: Batch | None = None
        self._pos = self._synced_pos = 0
        self._durable_index = self._index.last if len(self._index) else 0
        if not self._segments:
            self._begin_segment(fresh=True)
            self.sync_now()

    # --- writing -----------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry. ``idx`` must follow the last one; an empty log begins anywhere."""
        if len(self._index) and idx != self._index.last + 1:
            raise FatalError(f"entry {idx} cannot follow entry {self._index.last}")
        place = self._record(Kind.ENTRY, entry_head(idx, term), command)
        if not len(self._index):
            self._cached_from = idx
        self._index.append(idx, term, place)
        self._commands[idx] = command
        self._cached_bytes += len(command)

    def truncate(self, index: int) -> None:
        """Remove the entries from ``index`` on. The oldest entry held stays."""
        if index > self._index.last:
            return
        if index <= self._index.first:
            raise FatalError(f"entry {index} was compacted and cannot be truncated")
        self._record(Kind.TRUNCATE, truncate_payload(index))
        for gone in range(max(index, self._cached_from), self._index.last + 1):
            self._cached_bytes -= len(self._commands.pop(gone))
        self._cached_from = min(self._cached_from, index)
        self._index.cut(index)
        self._cap_durable(index - 1)
        for segment in self._segments:
            segment.truncated(index)

    def set_vote(self, vote: Vote) -> None:
        """Remember the term and whom this node voted for in it."""
        if vote != self._vote:
            self._record(Kind.VOTE, vote_payload(vote))
            self._vote = vote

    def clear(self) -> None:
        """Forget all entries. The next one added begins the log."""
        self._void()
        self._begin_segment(fresh=True)

    def reset(self, index: int, term: int) -> None:
        """Forget all entries: the log begins with that one, as a snapshot left it.

        Durable on return.
        """
        self._void()
        self._index.append(index, term, Place(0, 0, 0))
        self._cached_from = index + 1
        self._begin_segment(fresh=True)
        self.sync_now()

    def compact(self, upto: int) -> None:
        """Drop old segments whose entries are all below ``upto``, less what is to be retained.

        ``upto`` must be applied in a commit of the state that is on disk.
        """
        for kept in range(len(self._segments) - 1, 0, -1):
            segment = self._segments[kept]
            if segment.base is None or not segment.can_be_first or segment.base[0] > upto:
                continue
            if not self._is_enough(kept):
                continue
            self._drop_segments(kept)
            self._index.drop_before(segment.base[0])
            while self._cached_from <= segment.base[0]:
                self._evict_oldest()
            self.request_sync()
            return

    def _void(self) -> None:
        self._index.clear()
        self._commands.clear()
        self._cached_bytes = 0
        self._cap_durable(0)

    def _cap_durable(self, last: int) -> None:
        self._durable_index = min(self._durable_index, last)
        # What is being fsynced now may hold entries that are no longer ours.
        if self._in_flight is not None:
            self._in_flight.last_index = min(self._in_flight.last_index, last)

    def _record(self, kind: Kind, *payload: bytes) -> Place:
        if self._segments[-1].size >= self._limits.segment_bytes:
            self._begin_segment(fresh=False)
        return self._write(kind, *payload, first=not self._batch.writes)

    def _write(self, kind: Kind, *payload: bytes, first: bool) -> Place:
        if self._failed:
            raise DiskError("the journal's disk has failed; nothing is written any more")
        segment = self._segments[-1]
        parts = encode(segment.number, segment.size, kind, *payload, first_of_batch=first)
        size = sum(map(len, parts))
        place = Place(segment.number, segment.size, size)
        self._batch.write(segment_name(segment.number), parts)
        segment.size += size
        self._pos += 1
        return place

    def _begin_segment(self, *, fresh: bool) -> None:
        number = self._segments[-1].number + 1 if self._segments else 1
        base = self._index.base
        segment = Segment(number=number, base=base, fresh=fresh)
        self._segments.append(segment)
        first = not self._batch.writes
        self._batch.create(segment_name(number))
        segment.size = len(PREAMBLE)
        header = Header(number, fresh, base, self._vote)
        self._write(Kind.HEADER, header_payload(header), first=first)
        if fresh:
            self._drop_segments(len(self._segments) - 1)

    def _drop_segments(self, count: int) -> None:
        self._batch.deletes += [segment_name(segment.number) for segment in self._segments[:count]]
        del self._segments[:count]

    def _is_enough(self, kept: int) -> bool:
        base = self._segments[kept].base
        entries = self._index.last - (base[0] if base else 0)
        size = sum(segment.size for segment in self._segments[kept:])
        return entries >= self._limits.retain_entries or size >= self._limits.retain_bytes

    # --- durability --------------------------------------------------------------------------

    @property
    def pos(self) -> int:
        """How many records were written since the journal was opened."""
        return self._pos

    @property
    def synced_pos(self) -> int:
        """How many of them, from the first on, are known to be on disk."""
        return self._synced_pos

    @property
    def size_bytes(self) -> int:
        """What the segments hold."""
        return sum(segment.size for segment in self._segments)

    def durable_last_index(self) -> int:
        """The last entry that is on disk with all before it, as they stand now; 0 for none."""
        return self._durable_index

    def on_synced(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` on the loop after each fsync."""
        self._listeners.append(listener)

    def request_sync(self) -> None:
        """Make what was written so far durable soon. One fsync is under way at a time."""
        if self._in_flight is not None or self._failed or not self._is_dirty():
            return
        batch = self._take_batch()
        self._syncer.run(lambda: batch.run(self._disk), self._synced)

    def sync_now(self) -> None:
        """Make everything durable before returning: at start, stop and reset."""
        while self._in_flight is not None:
            self._syncer.finish()
        if self._failed:
            raise DiskError("the journal's disk has failed; nothing is written any more")
        if not self._is_dirty():
            return
        batch = self._take_batch()
        try:
            batch.run(self._disk)
        except OSError as error:
            self._synced(error)
            raise DiskError(f"the journal cannot be written: {error}") from error
        self._synced(None)

    def close(self) -> None:
        """Make everything durable, unless the disk has failed. The caller closes the disk."""
        if not self._failed:
            self.sync_now()

    def _is_dirty(self) -> bool:
        return bool(self._batch.writes or self._batch.deletes)

    def _take_batch(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        batch.pos = self._pos
        batch.last_index = self._index.last if len(self._index) else 0
        self._in_flight = batch
        return batch

    def _synced(self, error: BaseException | None) -> None:
        batch, self._in_flight = self._in_flight, None
        assert batch is not None
        if error is not None:
            # The state of the dirty pages is unknown, and a second fsync would not report it: never
            # count on anything written from here on.
            self._failed = True
            self._on_fatal(DiskError(f"the journal cannot be written: {error}"))
            return
        self._synced_pos = batch.pos
        self._durable_index = batch.last_index
        # Only what is on disk can be read back from it. The newest entry stays, however large:
        # PySyncObj looks at it all the time, for its term.
        evictable = min(self._durable_index, self._index.last - 1)
        while self._cached_bytes > self._limits.cache_bytes and self._cached_from <= evictable:
            self._evict_oldest()
        for listener in self._listeners:
            listener()

    # --- reading -----------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The oldest entry held. Its term is known; its command may be gone."""
        return self._index.first

    @property
    def last_index(self) -> int:
        """The newest entry; below ``first_index`` when there is none."""
        return self._index.last

    def term_at(self, index: int) -> int | None:
        """The term of the entry at ``index``; None when it is not held."""
        return self._index.term(index)

    def entry(self, index: int) -> LoggedEntry:
        """The entry at ``index``, read back from its file if it is no longer in memory."""
        term = self._index.term(index)
        if term is None:
            raise IndexError(f"entry {index} is not held")
        return self._command(index), index, term

    def _command(self, index: int) -> bytes:
        command = self._commands.get(index)
        # The oldest entry may be only a header's base, and is never sent.
        if command is not None or index == self._index.first:
            return command or b""
        place = self._index.place(index)
        name = segment_name(place.segment)
        try:
            data = self._disk.read(name, place.offset, place.size)
            return command_of(place.segment, place.offset, data)
        except (OSError, DamagedError) as error:
            raise DiskError(f"entry {index} in {name} cannot be read back: {error}") from error

    def _evict_oldest(self) -> None:
        self._cached_bytes -= len(self._commands.pop(self._cached_from, b""))
        self._cached_from += 1

    # --- PySyncObj's interface ---------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, position: int) -> LoggedEntry: ...

    @overload
    def __getitem__(self, position: slice) -> Sequence[LoggedEntry]: ...

    def __getitem__(self, position: int | slice) -> LoggedEntry | Sequence[LoggedEntry]:
        if isinstance(position, slice):
            return Slice(self, range(self._index.first, self._index.last + 1)[position])
        size = len(self._index)
        if not -size <= position < size:
            raise IndexError(f"position {position} of a log of {size} entries")
        return self.entry(self._index.first + position % size)

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 - PySyncObj's names
        self.truncate(self._index.first + entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803 - PySyncObj's names
        """Drop entries below that position, as ``compact`` does: some or all of them may stay."""
        self.compact(self._index.first + entryTo)

    def setCurrentTerm(  # noqa: N802 - PySyncObj's name
        self,
        term: int,
        votedForNodeId: str | None,  # noqa: N803 - PySyncObj's name
    ) -> None:
        self.set_vote(Vote(term, votedForNodeId))

    def getCurrentTerm(self) -> int:  # noqa: N802 - PySyncObj's name
        return self._vote.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802 - PySyncObj's name
        return self._vote.voted_for

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803 - PySyncObj's names
        """Nothing is kept: after a restart the leader says what is committed."""

    def getRaftCommitIndex(self) -> int:  # noqa: N802 - PySyncObj's name
        return 1

    def onOneSecondTimer(self) -> None:  # noqa: N802 - PySyncObj's name
        """Do nothing: the journal has no periodic work."""

    def _destroy(self) -> None:
        self.close()


class Slice(Sequence[LoggedEntry]):
    """A range of the log that reads an entry when it is asked for."""

    def __init__(self, journal: Journal, indexes: range) -> None:
        self._journal = journal
        self._indexes = indexes

    def __len__(self) -> int:
        return len(self._indexes)

    def __iter__(self) -> Iterator[LoggedEntry]:
        return map(self._journal.entry, self._indexes)

    @overload
    def __getitem__(self, position: int) -> LoggedEntry: ...

    @overload
    def __getitem__(self, position: slice) -> Sequence[LoggedEntry]: ...

    def __getitem__(self, position: int | slice) -> LoggedEntry | Sequence[LoggedEntry]:
        if isinstance(position, slice):
            return Slice(self._journal, self._indexes[position])
        return self._journal.entry(self._indexes[position])
