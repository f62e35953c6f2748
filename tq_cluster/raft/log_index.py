"""Where each entry of the log stands: 32 bytes an entry, however large the entry is."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry's record stands. ``size`` 0: it was dropped, only index and term are known."""

    segment: int
    offset: int
    size: int


class LogIndex:
    """Terms and places of the entries ``first`` to ``last``; empty when ``last < first``."""

    def __init__(self) -> None:
        self.first = 1
        self._terms = array("Q")
        self._segments = array("Q")
        self._offsets = array("Q")
        self._sizes = array("Q")

    @property
    def last(self) -> int:
        return self.first + len(self._terms) - 1

    @property
    def base(self) -> tuple[int, int] | None:
        """Index and term of the last entry; None when there is none."""
        return (self.last, self._terms[-1]) if self._terms else None

    def __len__(self) -> int:
        return len(self._terms)

    def append(self, index: int, term: int, place: Place) -> None:
        """Add the next entry; an empty log begins wherever its first entry says."""
        if not self._terms:
            self.first = index
        elif index != self.last + 1:
            raise ValueError(f"entry {index} cannot follow entry {self.last}")
        self._terms.append(term)
        self._segments.append(place.segment)
        self._offsets.append(place.offset)
        self._sizes.append(place.size)

    def term(self, index: int) -> int | None:
        """The entry's term; None when it is not in the log."""
        at = index - self.first
        return self._terms[at] if 0 <= at < len(self._terms) else None

    def place(self, index: int) -> Place:
        at = index - self.first
        return Place(self._segments[at], self._offsets[at], self._sizes[at])

    def cut(self, index: int) -> None:
        """Remove the entries from ``index`` on."""
        at = index - self.first
        for column in (self._terms, self._segments, self._offsets, self._sizes):
            del column[at:]

    def drop_before(self, index: int) -> None:
        """Remove the entries before ``index``, and of that one all but its index and term."""
        at = index - self.first
        for column in (self._terms, self._segments, self._offsets, self._sizes):
            del column[:at]
        self.first = index
        self._sizes[0] = 0

    def clear(self) -> None:
        self.cut(self.first)
