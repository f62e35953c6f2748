"""A refused call of several tasks: which task is at fault, and how the others go again.

Brokers refuse a call as a whole if one task has a field that they do not know, has too many items
in a field, or is for a queue that the caller may not use. Such a refusal applies nothing. So the
others are sent again without that task, in calls of their own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tq.v1.task_pb2 import TaskSpec
from tq_client.errors import Reason, RequestError, TqError, UnsupportedError

_NAMED = re.compile(r"tasks\[(\d{1,9})\]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Blame:
    """What follows from a refused call, by the positions of its tasks."""

    offender: int | None
    """The task that the refusal names; None: it names none."""
    again: Sequence[Sequence[int]]
    """The others, in calls to send; tasks keep their order within a call."""


def find(specs: Sequence[TaskSpec], error: TqError, *, again: bool) -> Blame | None:
    """Find out whether one task is at fault; None: the error is that of every task.

    ``again``: these tasks were part of a refused call already. Then the others are also split in
    two, so that n tasks need fewer than 2n calls, of n log n tasks together, however many are at
    fault.
    """
    if not isinstance(error, RequestError | UnsupportedError):
        return None
    positions = range(len(specs))
    named = _NAMED.match(error.field)
    if named is not None:
        offender = int(named[1])
        if offender not in positions:
            return None
        others = [at for at in positions if at != offender]
        return Blame(offender, _halves(others) if again else [others] if others else [])
    if len(specs) == 1:
        return None
    if error.reason is Reason.PERMISSION_DENIED:
        # What a caller may do depends on the queue alone.
        queues: dict[str, list[int]] = {}
        for at, spec in enumerate(specs):
            queues.setdefault(spec.queue, []).append(at)
        return Blame(None, list(queues.values())) if len(queues) > 1 else None
    if error.field.startswith("tasks."):
        # A limit of each task: the error says which limit, and not whose.
        return Blame(None, _halves(positions))
    return None


def own(error: TqError, offender: int) -> TqError:
    """The same error for the caller of that one task, who knows nothing of the others."""
    name = f"tasks[{offender}]"
    mine = copy.copy(error)
    mine.field = error.field.removeprefix(name).removeprefix(".")
    mine.message = _own_words(error.message, name)
    mine.args = tuple(_own_words(str(arg), name) for arg in error.args)
    return mine


def _own_words(text: str, name: str) -> str:
    return text.replace(f"{name}.", "").replace(name, "the task")


def _halves(positions: Sequence[int]) -> list[Sequence[int]]:
    middle = (len(positions) + 1) // 2
    return [half for half in (positions[:middle], positions[middle:]) if half]
