"""The index of each waiting state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel import ready_order
from tq_cluster.core.kernel.batch import Space, Step
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.rows import tables

NOTHING: Final = b""


def _enter_due(space: Space, _queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    space.workspace.put(tables.DUE, tables.at_key(space.prefix, row.due_at_ms, number), NOTHING)


def _leave_due(space: Space, _queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    space.workspace.delete(tables.DUE, tables.at_key(space.prefix, row.due_at_ms, number))


def _stay(_space: Space, _queue: Queue, _number: int, _row: state_pb2.TaskRow) -> None:
    """Do nothing: neither time nor a claim moves the task."""


@dataclass(frozen=True, slots=True)
class Index:
    """How tasks enter and leave the index of a waiting state."""

    enter: Step
    """Runs before the task is counted in its state."""
    leave: Step
    """Runs while the task is still counted in its state."""


INDEX_OF: Final[Mapping[states.State, Index]] = {
    states.BLOCKED: Index(_stay, _stay),
    states.SCHEDULED: Index(_enter_due, _leave_due),
    states.PENDING: Index(ready_order.enter, ready_order.leave),
    states.RETRYING: Index(_enter_due, _leave_due),
}
"""By waiting state; the others have none. EXPIRING holds all waiting tasks that may expire."""
assert INDEX_OF.keys() == states.WAITING
