"""What the queues hold and who works on them, looked through a little at a time.

Nobody who asks waits for it, and it holds the loop for a moment at a time only, however many queues
and workers there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tq_cluster.core import queries
from tq_cluster.core.depths import Depth
from tq_cluster.core.types import TimestampMs
from tq_cluster.core.view import View
from tq_cluster.leader.workers import WorkerRegistry

EVERY_S: Final = 2.0
"""How much time lies between the beginnings of two surveys, at least."""
QUEUES_SLICE: Final = 50
WORKERS_SLICE: Final = 500


@dataclass(slots=True)
class Survey:
    """What was found, from the first slice to the last: not quite of one instant."""

    now_ms: TimestampMs
    """Log time at the end."""
    leases: int = 0
    depths: list[Depth] = field(default_factory=list)
    queue_workers: Counter[str] = field(default_factory=Counter)
    """How many workers claim from each queue."""
    workers: int = 0
    slots: int = 0
    slots_busy: int = 0


class Surveyor:
    """Makes one survey after the other, a slice at each step."""

    def __init__(
        self,
        *,
        view: Callable[[], View],
        workers: WorkerRegistry,
        leases: Callable[[], int],
        now_ms: Callable[[], TimestampMs],
        now_s: Callable[[], float],
        done: Callable[[Survey | None], None],
    ) -> None:
        """``done`` is told each survey, and None when there will be no more for now."""
        self._view = view
        self._workers = workers
        self._leases = leases
        self._now_ms = now_ms
        self._now_s = now_s
        self._done = done
        self._steps: Iterator[None] | None = None
        self._begin_at_s = 0.0

    def step(self) -> None:
        """Look through one more slice, or begin anew if that is due."""
        if self._steps is None:
            if self._now_s() < self._begin_at_s:
                return
            self._begin_at_s = self._now_s() + EVERY_S
            self._steps = self._survey()
        if next(self._steps, self) is self:
            self._steps = None

    def stop(self) -> None:
        """Forget what was found: this node leads no more."""
        self._steps = None
        self._begin_at_s = 0.0
        self._done(None)

    def _survey(self) -> Iterator[None]:
        survey = Survey(now_ms=self._now_ms())
        after = ""
        while depths := queries.queue_depths(self._view(), after, QUEUES_SLICE):
            survey.depths.extend(depths)
            after = depths[-1].queue
            if len(depths) < QUEUES_SLICE:
                break
            yield
        for seen, worker in enumerate(self._workers.active(), 1):
            survey.workers += 1
            survey.queue_workers.update(worker.queues)
            if worker.usage is not None:
                survey.slots += worker.usage.slots
                survey.slots_busy += worker.usage.slots_busy
            if not seen % WORKERS_SLICE:
                yield
        survey.leases = self._leases()
        survey.now_ms = self._now_ms()
        self._done(survey)
