"""Which queues and types have series of their own.

Their names are the callers' to choose, and each costs Prometheus a dozen series and a scrape its
time: the first so many that are met have their own, what comes later shares one.
"""

from __future__ import annotations

from typing import Final

QUEUES_MAX: Final = 50
TYPES_MAX: Final = 50
PAIRS_MAX: Final = 200
"""Of the queues' and types' combinations."""
OTHER: Final = "~other"
"""No queue and no type can be named so."""


class Labels:
    """Labels given out in the order of asking; one that was given stays."""

    def __init__(self) -> None:
        self._queues: set[str] = set()
        self._types: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()

    def queue(self, name: str) -> str:
        """Return the label of a queue."""
        return _admitted(self._queues, name, QUEUES_MAX)

    def pair(self, queue: str, task_type: str) -> tuple[str, str]:
        """Return the labels of a type in a queue."""
        queue = self.queue(queue)
        pair = (queue, _admitted(self._types, task_type, TYPES_MAX))
        if pair not in self._pairs:
            if len(self._pairs) >= PAIRS_MAX:
                return queue, OTHER
            self._pairs.add(pair)
        return pair


def _admitted(known: set[str], name: str, most: int) -> str:
    if name not in known:
        if len(known) >= most:
            return OTHER
        known.add(name)
    return name
