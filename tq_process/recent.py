"""A limited set of names that others choose: each keeps its place while it is met."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

IDLE_S: Final = 24 * 3600.0
"""A name that is not met for this long loses its place."""
IDLE_WHEN_FULL_S: Final = 600.0
"""The same if another name needs the place."""

Name = TypeVar("Name", bound=Hashable)


class Recent(Generic[Name]):
    """At most ``most`` names, the least recently met first."""

    def __init__(
        self, most: int, now_s: Callable[[], float], forgotten: Callable[[Name], None]
    ) -> None:
        """``forgotten`` is called with each name that loses its place."""
        self._most = most
        self._now_s = now_s
        self._forgotten = forgotten
        self._met_s: OrderedDict[Name, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._met_s)

    def admits(self, name: Name) -> bool:
        """Note that ``name`` is met; True if it has a place."""
        now_s = self._now_s()
        if name not in self._met_s and len(self._met_s) >= self._most:
            self._forget(now_s - IDLE_WHEN_FULL_S, most=1)
            if len(self._met_s) >= self._most:
                return False
        self._met_s[name] = now_s
        self._met_s.move_to_end(name)
        return True

    def drop(self, name: Name) -> None:
        """Remove a name, if it has a place."""
        if self._met_s.pop(name, None) is not None:
            self._forgotten(name)

    def drop_where(self, holds: Callable[[Name], bool]) -> None:
        """Remove all names for which ``holds`` is true."""
        for name in [each for each in self._met_s if holds(each)]:
            self.drop(name)

    def tidy(self) -> None:
        """Remove the names that were not met for `IDLE_S`."""
        self._forget(self._now_s() - IDLE_S, most=self._most)

    def _forget(self, since_s: float, *, most: int) -> None:
        for _ in range(most):
            name, met_s = next(iter(self._met_s.items()), (None, since_s))
            if name is None or met_s >= since_s:
                return
            self.drop(name)
