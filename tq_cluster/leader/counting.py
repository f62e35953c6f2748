"""Translates what the core tallied into metrics: names for states, reasons and types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from tq.v1 import task_pb2
from tq_cluster.core.model import states
from tq_cluster.core.model.namespaces import ONLY_DEFAULT, Namespaces
from tq_cluster.core.model.queue_moves import Tally
from tq_cluster.core.reads import queries
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.leader.sampler import Sample
from tq_cluster.telemetry.labels import OTHER
from tq_cluster.telemetry.metrics_queues import Found, QueueMetrics
from tq_cluster.telemetry.metrics_tasks import Event, TaskMetrics

_BY_END: Final[dict[states.State, Event]] = {
    states.RUNNING: "claimed",
    states.RETRYING: "retried",
    states.COMPLETED: "completed",
    states.FAILED: "failed",
    states.CANCELLED: "cancelled",
}
_STATES: Final = {
    state: task_pb2.TaskState.Name(state).removeprefix("TASK_STATE_").lower()
    for state in states.ALL
}
_REASONS: Final = {
    reason: task_pb2.FailureReason.Name(reason).removeprefix("FAILURE_REASON_").lower()
    for reason in task_pb2.FailureReason.values()
}
TYPES_REMEMBERED: Final = 1_000
LOOKUPS_MAX: Final = 50
"""How many type names are looked up for one entry; further types are counted together."""
_Key = TypeVar("_Key")


class Counting:
    """Counts what applied entries did to tasks, and shows what surveys found."""

    def __init__(
        self,
        *,
        view: Callable[[], View],
        tasks: TaskMetrics,
        queues: QueueMetrics,
        namespaces: Namespaces = ONLY_DEFAULT,
    ) -> None:
        self._view = view
        self._namespaces = namespaces
        self._tasks = tasks
        self._queues = queues
        self._types: dict[int, str] = {}
        """Type names by digest. Two types with one digest (1 in 2^32) count as the first."""
        self._lookups = 0
        self._found = Found()
        """The sample under way, by label: it stays small, however many queues there are."""

    def add(self, tallies: Sequence[Tally]) -> None:
        """Count the effects of an applied entry."""
        self._lookups = 0
        tasks = self._tasks
        for tally in tallies:
            queue = self._namespaces.qualified(tally.namespace, tally.queue)
            for (digest, before, after), count in tally.moves.items():
                event = _event(before, after)
                if event is not None:
                    tasks.moved(event, queue, self._type(digest, tally), count)
            if tally.waited_ms:
                tasks.waited(queue, tally.waited_ms)
            for state, lasted_ms in tally.lasted_ms.items():
                tasks.lasted(queue, _STATES[state], lasted_ms)
            if tally.attempts:
                tasks.attempted(queue, tally.attempts)
            for reason, count in tally.dead_letters.items():
                tasks.died(queue, _REASONS[reason], count)
            if tally.leases_expired:
                tasks.leases_expired(queue, tally.leases_expired)

    def show(self, sample: Sample | None) -> None:
        """Show a sample once its last slice is there; None: this node no longer leads."""
        if sample is None:
            self._found = Found()
            self._queues.found(None)
            return
        found = self._found
        for depth in sample.depths:
            # Only of queues that exist: workers can name any queue in a claim.
            workers = sample.queue_workers.get((sample.namespace, depth.queue), 0)
            unfinished = {key: count for key, count in depth.unfinished.items() if count}
            finished = {state: count for state, count in depth.finished.items() if count}
            if not (unfinished or finished or depth.paused or workers):
                continue
            qualified = self._namespaces.qualified(sample.namespace, depth.queue)
            queue = self._queues.label(qualified)
            for (state, band), count in unfinished.items():
                _add(found.unfinished, (queue, _STATES[state], band), count)
            for state, count in finished.items():
                _add(found.finished, (queue, _STATES[state]), count)
            if depth.head_due_ms is not None:
                age_s = max(0, sample.now_ms - depth.head_due_ms) / 1000
                found.head_age_s[queue] = max(found.head_age_s.get(queue, 0.0), age_s)
            if depth.purging:
                _add(found.purging, queue, depth.purging)
            if depth.paused:
                found.paused.add(queue)
            if workers:
                _add(found.queue_workers, queue, workers)
        workforce = sample.workforce
        if workforce is not None:
            found.leases, found.workers = workforce.leases, workforce.workers
            found.slots, found.slots_busy = workforce.slots, workforce.slots_busy
            self._found = Found()
            self._queues.found(found)

    def _type(self, digest: int, tally: Tally) -> str:
        """Return the name of a type; looked up once, because a move carries only its digest."""
        name = self._types.get(digest)
        if name is None:
            if self._lookups >= LOOKUPS_MAX:
                return OTHER
            self._lookups += 1
            scope = Scope.of(self._view(), tally.namespace)
            name = queries.task_type(scope, tally.examples[digest])
            if name is None:  # the task was removed by the same entry
                return OTHER
            if len(self._types) >= TYPES_REMEMBERED:
                del self._types[next(iter(self._types))]
            self._types[digest] = name
        return name


def _add(counts: dict[_Key, int], key: _Key, count: int) -> None:
    counts[key] = counts.get(key, 0) + count


def _event(before: states.State, after: states.State) -> Event | None:
    """Return the event that a move counts as; None for a task that only came closer to its turn."""
    if before == states.NONE:
        return "submitted"
    if before == states.FAILED:
        return "redriven"
    if before == states.RUNNING and after == states.PENDING:
        return "released"
    return _BY_END.get(after)
