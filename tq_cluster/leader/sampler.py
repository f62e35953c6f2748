"""Surveys queue contents and workers, a little at a time.

No caller waits for a survey, and each step holds the loop only for a moment, however many queues
and workers there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tq_cluster.core.model.namespaces import Namespaces
from tq_cluster.core.model.types import TimestampMs
from tq_cluster.core.reads import queries
from tq_cluster.core.reads.depths import Depth
from tq_cluster.core.reads.steps import Reader
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.leader.workers import WorkerRegistry

EVERY_S: Final = 2.0
"""The least time between the beginnings of two surveys."""
QUEUES_SLICE: Final = 50
WORKERS_SLICE: Final = 100
QUEUES_NAMED_MAX: Final = 10_000
"""How many queue names of workers are counted, which may include queues that do not exist."""


@dataclass(frozen=True, slots=True)
class Workforce:
    """Totals over all workers."""

    leases: int
    workers: int
    slots: int
    slots_busy: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A slice of a survey, so that the whole is never held at once."""

    now_ms: TimestampMs
    """Log time."""
    namespace: int
    """That of the queues in ``depths``."""
    depths: Sequence[Depth]
    queue_workers: Mapping[tuple[int, str], int]
    """How many workers claim from each queue, by namespace and queue, of this slice and others."""
    workforce: Workforce | None
    """Set only in the last slice."""


class Sampler:
    """Takes one sample after the other, a slice at each step."""

    def __init__(
        self,
        *,
        view: Callable[[], View],
        namespaces: Namespaces,
        workers: WorkerRegistry,
        leases: Callable[[], int],
        now_ms: Callable[[], TimestampMs],
        now_s: Callable[[], float],
        found: Callable[[Sample | None], None],
    ) -> None:
        """``found`` receives each slice, and None when no more follow for now."""
        self._view = view
        self._namespaces = namespaces
        self._workers = workers
        self._leases = leases
        self._now_ms = now_ms
        self._now_s = now_s
        self._found = found
        self._steps: Iterator[None] | None = None
        self._begin_at_s = 0.0

    def step(self) -> None:
        """Survey one more slice, or begin a new survey if that is due."""
        if self._steps is None:
            if self._now_s() < self._begin_at_s:
                return
            self._begin_at_s = self._now_s() + EVERY_S
            self._steps = self._take_samples()
        if next(self._steps, self) is self:
            self._steps = None

    def stop(self) -> None:
        """Discard the survey: this node no longer leads."""
        self._steps = None
        self._begin_at_s = 0.0
        self._found(None)

    def _take_samples(self) -> Iterator[None]:
        queue_workers: Counter[tuple[int, str]] = Counter()
        workers = slots = slots_busy = 0
        for seen, worker in enumerate(self._workers.active(), 1):
            workers += 1
            if len(queue_workers) < QUEUES_NAMED_MAX:
                queue_workers.update((worker.namespace, queue) for queue in worker.queues)
            if worker.usage is not None:
                slots += worker.usage.slots
                slots_busy += worker.usage.slots_busy
            if not seen % WORKERS_SLICE:
                yield
        *others, last = self._namespaces.numbers
        for passed, namespace in enumerate(others, 1):
            depths = yield from self._look_through(namespace, queue_workers)
            self._found(Sample(self._now_ms(), namespace, depths, queue_workers, None))
            if depths or not passed % QUEUES_SLICE:  # empty ones cost a read each
                yield
        depths = yield from self._look_through(last, queue_workers)
        workforce = Workforce(self._leases(), workers, slots, slots_busy)
        self._found(Sample(self._now_ms(), last, depths, queue_workers, workforce))

    def _look_through(
        self, namespace: int, queue_workers: Mapping[tuple[int, str], int]
    ) -> Generator[None, None, Sequence[Depth]]:
        """Pass on the slices of a namespace's queues; return the last one, which may be empty."""
        after = ""
        while True:
            reader = Reader()
            reader.renew(self._view())
            depths = queries.queue_depths(Scope.of(reader, namespace), after, QUEUES_SLICE)
            if len(depths) < QUEUES_SLICE and not reader.step_is_over:
                return depths
            self._found(Sample(self._now_ms(), namespace, depths, queue_workers, None))
            after = depths[-1].queue
            yield
