"""The option ``depends_on``: what it takes, and how it is written into a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, cast

from tq.v1.task_pb2 import Dependency, TaskSpec
from tq_common.limits import DEPENDENCIES_MAX, SUBMIT_TASKS_MAX
from tq_common.quoting import shown

if TYPE_CHECKING:
    from tq.v1 import task_pb2

    _Condition: TypeAlias = task_pb2.Dependency.Condition.ValueType
    _Otherwise: TypeAlias = task_pb2.Dependency.Otherwise.ValueType

Condition: TypeAlias = Literal["completed", "not_completed", "ended"]
Otherwise: TypeAlias = Literal["fail", "skip"]

CONDITIONS: Final[Mapping[str, _Condition]] = {
    "completed": Dependency.CONDITION_COMPLETED,
    "not_completed": Dependency.CONDITION_NOT_COMPLETED,
    "ended": Dependency.CONDITION_ENDED,
}
OTHERWISES: Final[Mapping[str, _Otherwise]] = {
    "fail": Dependency.OTHERWISE_FAIL,
    "skip": Dependency.OTHERWISE_SKIP,
}
_CONDITION_OF: Final = {number: word for word, number in CONDITIONS.items()} | {0: "completed"}
_OTHERWISE_OF: Final = {number: word for word, number in OTHERWISES.items()} | {0: None}


class HasTaskId(Protocol):
    """A handle, a `Task`, the context of an attempt: anything that has the id of a task."""

    @property
    def task_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class After:
    """A task that another waits for, and how it has to end, for the option ``depends_on``.

    In `submit_together` and in the tasks of a completion, a whole number names another task of the
    same list by its position, from 0.
    """

    task: str | int | HasTaskId
    """Its id, a handle, anything else with a ``task_id``, or a position."""
    condition: Condition = "completed"
    """How it has to end. "completed": it succeeds, or is skipped. "not_completed": it fails or is
    cancelled, for what makes good the damage. "ended": in any way, for cleaning up."""
    otherwise: Otherwise | None = None
    """What becomes of the waiting task if that cannot happen any more. "fail": it is FAILED, or
    CANCELLED if the other was cancelled. "skip": it is CANCELLED, and counts as completed to tasks
    that wait for it. None is "skip" after "not_completed", else "fail"."""

    @classmethod
    def of(cls, message: Dependency) -> After:
        """Read it from a broker's answer."""
        by_position = message.WhichOneof("on") == "item"
        condition = _CONDITION_OF.get(message.condition, f"unknown_{message.condition}")
        otherwise = _OTHERWISE_OF.get(message.otherwise, f"unknown_{message.otherwise}")
        return cls(
            message.item if by_position else message.task_id,
            cast("Condition", condition),
            cast("Otherwise | None", otherwise),
        )


Waited: TypeAlias = str | int | HasTaskId | After
"""One entry of ``depends_on``."""

_ENTRY: Final = "a task's id, a handle, After(...), or a position in the same call"


def set_depends_on(spec: TaskSpec, name: str, value: object) -> None:
    """Write the option into a task; raises TypeError or ValueError, which name the entry."""
    if isinstance(value, str) or not isinstance(value, Collection):
        raise TypeError(f"{name}={shown(value)}: it takes a list, each entry {_ENTRY}")
    if len(value) > DEPENDENCIES_MAX:
        count = f"{len(value):,} entries"
        raise ValueError(f"{name} has {count}; at most {DEPENDENCIES_MAX:,} are allowed")
    spec.depends_on.extend(_read(f"{name}[{place}]", each) for place, each in enumerate(value))


def moved(specs: Collection[TaskSpec], by: int) -> list[TaskSpec]:
    """Return tasks of which ``by`` others go before them: their positions in ``depends_on`` move.

    A task without positions is returned itself.
    """
    return [_moved(spec, by) for spec in specs]


def _moved(spec: TaskSpec, by: int) -> TaskSpec:
    if not by or not any(each.WhichOneof("on") == "item" for each in spec.depends_on):
        return spec
    made = TaskSpec()
    made.CopyFrom(spec)
    for each in made.depends_on:
        if each.WhichOneof("on") == "item":
            each.item += by
    return made


def _read(name: str, entry: object) -> Dependency:
    after = entry if isinstance(entry, After) else After(cast("Any", entry))
    dependency = Dependency(
        condition=CONDITIONS[_word(f"{name}.condition", after.condition, CONDITIONS)]
    )
    if after.otherwise is not None:
        word = _word(f"{name}.otherwise", after.otherwise, OTHERWISES)
        dependency.otherwise = OTHERWISES[word]
    task: object = after.task
    if isinstance(task, int) and not isinstance(task, bool):
        if not 0 <= task < SUBMIT_TASKS_MAX:
            raise ValueError(
                f"{name}={task}: positions from 0 to {SUBMIT_TASKS_MAX - 1} are allowed"
            )
        dependency.item = task
    else:
        dependency.task_id = _id(name, task)
    return dependency


def _id(name: str, task: object) -> str:
    task_id = task if isinstance(task, str) else getattr(task, "task_id", None)
    if not isinstance(task_id, str):
        advice = f"; say str({name})" if type(task).__name__ == "UUID" else ""
        raise TypeError(f"{name}={shown(task)}: it takes {_ENTRY}{advice}")
    if not task_id:
        raise ValueError(f"{name}={shown(task)}: it has no task id; give its position instead")
    return task_id


def _word(name: str, value: object, words: Mapping[str, object]) -> str:
    allowed = [repr(word) for word in words]
    several = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
    if not isinstance(value, str):
        raise TypeError(f"{name}={shown(value)}: it takes {several}")
    if value not in words:
        raise ValueError(f"{name}={shown(value)}: it takes {several}")
    return value
