"""The events of tasks: for the task log, if it is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel.batch import Moments, Space
from tq_cluster.core.kernel.feature import Feature
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.model.events import What


def _tell_submitted(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    space.note(What.SUBMITTED, queue, number, row)


def _tell_assigned(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    space.note(What.ASSIGNED, queue, number, row)


_TOLD_IN_STATE: Final[Mapping[states.State, What]] = {
    states.COMPLETED: What.COMPLETED,
    states.CANCELLED: What.CANCELLED,
    states.FAILED: What.DEAD,
}


def _tell_ended(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    space.note(_TOLD_IN_STATE[row.state], queue, number, row)


FEATURE: Final = Feature(
    name="task events",
    steps=Moments(arrive=(_tell_submitted,), start=(_tell_assigned,), end=(_tell_ended,)),
)
