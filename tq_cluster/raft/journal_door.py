"""The journal that the raft folder needs, and reading it in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, overload

LoggedEntry = tuple[bytes, int, int]
"""(command, index, term): PySyncObj's form."""


class LogJournal(Protocol):
    """Term, vote and entries on one node's disk; ``Journal`` is the product's.

    The methods in camelCase are those that PySyncObj calls; they take positions, the others
    indexes.
    """

    @property
    def pos(self) -> int:
        """How many writes were issued: entries, truncations, terms and votes."""

    @property
    def synced_pos(self) -> int:
        """How many of them, from the first on, are known to be on disk."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def first_index(self) -> int:
        """The oldest entry held; only its term is sure to be known."""

    @property
    def last_index(self) -> int: ...

    def term_at(self, index: int) -> int | None: ...

    def entry(self, index: int) -> LoggedEntry: ...

    def durable_last_index(self) -> int:
        """The last entry that is on disk with all before it, as they stand now."""

    def request_sync(self) -> None:
        """Make what was written so far durable soon; one fsync is under way at a time."""

    def on_synced(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` on the loop after each fsync."""

    def reset(self, index: int, term: int) -> None:
        """Begin the log with that entry, as a snapshot left it. Durable on return."""

    def compact(self, upto: int) -> None:
        """Drop entries below ``upto`` that are not worth keeping for a follower that was away."""

    def close(self) -> None:
        """Make everything durable."""

    def add(self, command: bytes, idx: int, term: int) -> None: ...

    def deleteEntriesFrom(self, entryFrom: int) -> None: ...  # noqa: N802, N803 - PySyncObj's names

    @overload
    def __getitem__(self, position: int) -> LoggedEntry: ...

    @overload
    def __getitem__(self, position: slice) -> Sequence[LoggedEntry]: ...

    def __len__(self) -> int: ...

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None: ...  # noqa: N802, N803

    def getCurrentTerm(self) -> int: ...  # noqa: N802 - PySyncObj's name

    def getVotedForNodeId(self) -> str | None: ...  # noqa: N802 - PySyncObj's name


def last_term(journal: LogJournal) -> int:
    """The term of the last entry."""
    term = journal.term_at(journal.last_index)
    assert term is not None
    return term


def batch(journal: LogJournal, first_index: int, bytes_max: int) -> list[LoggedEntry]:
    """Entries from ``first_index`` on, up to about ``bytes_max``; one at least, if there is one."""
    entries: list[LoggedEntry] = []
    batch_bytes = 0
    for index in range(first_index, journal.last_index + 1):
        entry = journal.entry(index)
        if entries and batch_bytes + len(entry[0]) > bytes_max:
            break
        entries.append(entry)
        batch_bytes += len(entry[0])
    return entries
