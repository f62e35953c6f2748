"""The steps at each moment of a task's life, and the index of each waiting state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel import ready_order
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.model.events import What
from tq_cluster.core.model.types import FencingToken
from tq_cluster.core.rows import tables

Step: TypeAlias = Callable[[Space, Queue, int, state_pb2.TaskRow], None]
"""A step at a moment of a task's life: namespace, queue, task number, row."""


NOTHING: Final = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """The steps at each moment of a task's life, in this order; a feature adds its steps here.

    The queue's counts, the listing by state and the state's index are kept by `_move` itself.
    """

    arrive: tuple[Step, ...]
    """It is new."""
    ready: tuple[Step, ...]
    """It becomes PENDING, before it is among the ready."""
    start: tuple[Step, ...]
    """A lease on it has been granted."""
    give_back: tuple[Step, ...]
    """Its attempt ends: what that held is free again, for its children, too."""
    end: tuple[Step, ...]
    """It has become terminal; its children have arrived."""


def _tell_assigned(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    space.note(What.ASSIGNED, queue, number, row)


def _tell_submitted(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    space.note(What.SUBMITTED, queue, number, row)


def _know_type(space: Space, _queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    if not row.type_digest:
        ready_order.know_type(space.workspace, space.prefix, number, row)


def _end_token(space: Space, _queue: Queue, _number: int, row: state_pb2.TaskRow) -> None:
    space.wakeups.ended.append(FencingToken(row.token))


def _list_dead_letter(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    if row.state == states.FAILED:
        queue.tally.died(row.failure_reason)
        for queue_id in (tables.ALL_QUEUES, queue.queue_id):
            key = tables.dead_letter_key(space.prefix, queue_id, row.finished_at_ms, number)
            space.workspace.put(tables.DEAD_LETTERS, key, NOTHING)


_TOLD_IN_STATE: Final[Mapping[states.State, What]] = {
    states.COMPLETED: What.COMPLETED,
    states.CANCELLED: What.CANCELLED,
    states.FAILED: What.DEAD,
}


def _tell_ended(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    space.note(_TOLD_IN_STATE[row.state], queue, number, row)


MOMENTS: Final = Moments(
    arrive=(_tell_submitted,),
    ready=(_know_type,),
    start=(_tell_assigned,),
    give_back=(_end_token,),
    end=(_list_dead_letter, _tell_ended),
)


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
