"""A queue of pairs of numbers, such as times and measurements."""

from __future__ import annotations

from array import array
from typing import Any, Literal


class Pairs:
    """A queue of pairs of numbers, in two pieces of memory.

    As separate objects, each a minute old or more among others that are gone, they would keep the
    memory of every burst of calls: CPython frees a block of 1 MiB only once no object in it lives.
    """

    def __init__(self, second: Literal["d", "q"]) -> None:
        """The first of a pair is a float; ``second`` is `array`'s letter for the other."""
        self._firsts = array("d")
        self._seconds: array[Any] = array(second)
        self._begin = 0

    def __len__(self) -> int:
        return len(self._firsts) - self._begin

    @property
    def first(self) -> tuple[float, float]:
        """Return the oldest pair; IndexError if there is none, as for all methods that take one."""
        return self._firsts[self._begin], self._seconds[self._begin]

    @property
    def last(self) -> tuple[float, float]:
        """The newest pair."""
        if not self:
            raise IndexError("there is no pair")
        return self._firsts[-1], self._seconds[-1]

    def append(self, first: float, second: float) -> None:
        """Add a pair."""
        self._firsts.append(first)
        self._seconds.append(second)

    def drop_last(self) -> None:
        """Remove the newest pair."""
        if not self:
            raise IndexError("there is no pair")
        del self._firsts[-1], self._seconds[-1]

    def drop_first(self) -> None:
        """Remove the oldest pair."""
        if not self:
            raise IndexError("there is no pair")
        self._begin += 1
        if self._begin * 2 > len(self._firsts):
            del self._firsts[: self._begin], self._seconds[: self._begin]
            self._begin = 0

    def second_since(self, first: float) -> float | None:
        """Return the second number of the oldest pair whose first is not below ``first``."""
        for place in range(self._begin, len(self._firsts)):
            if self._firsts[place] >= first:
                return float(self._seconds[place])
        return None
