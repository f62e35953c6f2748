"""Names that others choose, so many of them: each has its place until it is not met for long."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

IDLE_S: Final = 24 * 3600.0
"""A name that is not met for so long loses its place."""
IDLE_WHEN_FULL_S: Final = 600.0
"""The same while another name would have it."""

Name = TypeVar("Name", bound=Hashable)


class Recent(Generic[Name]):
    """At most so many names, the one that was not met for longest first."""

    def __init__(
        self, most: int, now_s: Callable[[], float], forgotten: Callable[[Name], None]
    ) -> None:
        """``forgotten`` is told of each name that has lost its place."""
        self._most = most
        self._now_s = now_s
        self._forgotten = forgotten
        self._met_s: OrderedDict[Name, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._met_s)

    def admits(self, name: Name) -> bool:
        """Note that ``name`` is met; whether it has a place."""
        now_s = self._now_s()
        if name not in self._met_s and len(self._met_s) >= self._most:
            self._forget(now_s - IDLE_WHEN_FULL_S, most=1)
            if len(self._met_s) >= self._most:
                return False
        self._met_s[name] = now_s
        self._met_s.move_to_end(name)
        return True

    def drop(self, name: Name) -> None:
        """Take its place from a name, if it has one."""
        if self._met_s.pop(name, None) is not None:
            self._forgotten(name)

    def drop_where(self, holds: Callable[[Name], bool]) -> None:
        """Take their places from all names of which that holds."""
        for name in [each for each in self._met_s if holds(each)]:
            self.drop(name)

    def tidy(self) -> None:
        """Take their places from names that were not met for long."""
        self._forget(self._now_s() - IDLE_S, most=self._most)

    def _forget(self, since_s: float, *, most: int) -> None:
        for _ in range(most):
            name, met_s = next(iter(self._met_s.items()), (None, since_s))
            if name is None or met_s >= since_s:
                return
            self.drop(name)
