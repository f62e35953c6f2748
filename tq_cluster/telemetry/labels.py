"""Limits which queues and types have series of their own.

Callers choose the names, and each costs Prometheus a dozen series and lengthens a scrape. So a
limited number of names have series of their own, and the others share one. A name that is not used
any more makes room.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tq_process.recent import Recent

QUEUES_MAX: Final = 50
TYPES_MAX: Final = 50
PAIRS_MAX: Final = 200
"""Combinations of queues and types."""
OTHER: Final = "~other"
"""Not a valid name of a queue or type."""


class Labels:
    """Labels given out in the order of requests, and taken back if they are not used for long."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._queues: Recent[str] = Recent(QUEUES_MAX, now_s, self._queue_gone)
        self._types: Recent[str] = Recent(TYPES_MAX, now_s, self._type_gone)
        self._pairs: Recent[tuple[str, str]] = Recent(PAIRS_MAX, now_s, self._pair_gone)
        self._on_queue_gone: list[Callable[[str], None]] = []
        self._on_pair_gone: list[Callable[[str, str], None]] = []

    def on_gone(
        self,
        queue: Callable[[str], None],
        pair: Callable[[str, str], None] = lambda _queue, _type: None,
    ) -> None:
        """Register a callback for labels that were taken back: their series have to go."""
        self._on_queue_gone.append(queue)
        self._on_pair_gone.append(pair)

    def queue(self, name: str) -> str:
        """Return the label of a queue."""
        return name if self._queues.admits(name) else OTHER

    def pair(self, queue: str, task_type: str) -> tuple[str, str]:
        """Return the labels of a type in a queue."""
        queue = self.queue(queue)
        pair = (queue, task_type if self._types.admits(task_type) else OTHER)
        return pair if self._pairs.admits(pair) else (queue, OTHER)

    def tidy(self) -> None:
        """Take back labels that were not used for long."""
        for each in (self._queues, self._types, self._pairs):
            each.tidy()

    def _queue_gone(self, queue: str) -> None:
        self._pairs.drop_where(lambda pair: pair[0] == queue)
        for told in self._on_queue_gone:
            told(queue)

    def _type_gone(self, task_type: str) -> None:
        self._pairs.drop_where(lambda pair: pair[1] == task_type)

    def _pair_gone(self, pair: tuple[str, str]) -> None:
        for told in self._on_pair_gone:
            told(*pair)
