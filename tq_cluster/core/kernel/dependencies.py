"""Tasks that wait for other tasks.

A task with dependencies is BLOCKED until enough of them hold. Its row counts those that are open
and those that hold, so that a task with a thousand of them costs no more when one parent ends than
a task with two. Each dependency has a row under its parent, with what was last made of it.

When a parent ends, or is redriven, a continuation goes through these rows and brings each in line
with how the parent stands then. It is one procedure for every change and may run any number of
times: so an end that is met by a redrive halfway, and by another end after that, comes out right.

A dependency no longer changes once its task has left BLOCKED: every attempt sees the same. Only a
task that failed through a parent which is redriven goes back.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_pb2
from tq_cluster.core.kernel import continuations, transitions
from tq_cluster.core.kernel.audit import Audited, Rows
from tq_cluster.core.kernel.batch import Moments, Progress, Space
from tq_cluster.core.kernel.feature import Feature
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import MINUTE_MS
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.view import View

Condition: TypeAlias = task_pb2.Dependency.Condition.ValueType
Status: TypeAlias = task_pb2.DependencyStatus.Status.ValueType

_Dependency = task_pb2.Dependency
_STATUS = task_pb2.DependencyStatus
OPEN: Final = _STATUS.STATUS_OPEN
HOLDS: Final = _STATUS.STATUS_HOLDS
BROKEN: Final = _STATUS.STATUS_BROKEN

DEPENDENTS_LOOKED_AT: Final = 100
"""How many dependents of a task a call looks at before it removes or redrives the task."""


# --- what a dependency has become ---


def is_skipped(row: state_pb2.TaskRow) -> bool:
    """Return whether a task was skipped; to its dependents it counts as completed."""
    return row.cancel_reason == task_pb2.CANCEL_REASON_SKIPPED


def status_of(condition: Condition, parent: state_pb2.TaskRow) -> Status:
    """Return what a dependency on this parent is, as the parent stands."""
    if parent.state not in states.TERMINAL:
        return OPEN
    if parent.failure_reason == task_pb2.FAILURE_REASON_UNCERTAIN:
        return OPEN  # how it ended is not known
    if condition == _Dependency.CONDITION_ENDED:
        return HOLDS
    completed = parent.state == states.COMPLETED or is_skipped(parent)
    return HOLDS if completed != (condition == _Dependency.CONDITION_NOT_COMPLETED) else BROKEN


def _skips(dependency: task_pb2.Dependency | state_pb2.DependentRow) -> bool:
    if dependency.otherwise == _Dependency.OTHERWISE_UNSPECIFIED:
        return dependency.condition == _Dependency.CONDITION_NOT_COMPLETED
    return dependency.otherwise == _Dependency.OTHERWISE_SKIP


def _group_of(dependency: task_pb2.Dependency) -> int:
    """Return where a dependency stands in DEPENDENTS.

    AFTER_FAILURE holds those that a failure of the parent may start or skip: no redrive of the
    parent undoes that.
    """
    needs_success = dependency.condition in (
        _Dependency.CONDITION_UNSPECIFIED,
        _Dependency.CONDITION_COMPLETED,
    )
    if needs_success and not _skips(dependency):
        return tables.AFTER_SUCCESS
    return tables.AFTER_FAILURE


# --- a new task ---


class _Broken(NamedTuple):
    """A dependency that can no longer hold, in the order in which they came to that."""

    finished_at_ms: int
    parent: int
    place: int


def attach(
    space: Space,
    spec: task_pb2.TaskSpec,
    number: int,
    row: state_pb2.TaskRow,
    task_ids: Sequence[str],
    on: Sequence[int],
) -> Generator[None, None, None]:
    """Store the dependencies of a new task, before it arrives.

    ``task_ids`` and ``on`` name its parents, by id and by number. The parents exist; those that
    have ended count at once.
    """
    row.has_dependencies = True
    row.dependencies_needed = spec.need or len(on)
    stored = state_pb2.DependenciesRow(on=on)
    for dependency, task_id, parent_number in zip(spec.depends_on, task_ids, on, strict=True):
        parent = rows.read_task(space.workspace, space.prefix, parent_number)
        status = status_of(dependency.condition, parent)
        _count(row, status, 1)
        edge = state_pb2.DependentRow(
            condition=dependency.condition,
            otherwise=dependency.otherwise,
            status=status,
            redrives=parent.redrives,
        )
        key = tables.dependent_key(space.prefix, parent_number, _group_of(dependency), number)
        _put_edge(space, key, edge)
        stored.depends_on.add(
            task_id=task_id, condition=dependency.condition, otherwise=dependency.otherwise
        )
        if not parent.has_dependents:
            parent.has_dependents = True
            space.put_task(parent_number, parent)
        yield
    space.workspace.put(
        tables.DEPENDENCIES,
        tables.number_key(space.prefix, number),
        stored.SerializeToString(deterministic=True),
    )


def settle_new(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """End a task that has just arrived, if its parents have ended so that it can never start."""
    if row.state == states.BLOCKED and _is_hopeless(row):
        broken = _first_that_broke_it(space, number, row)
        assert broken is not None
        _give_up(space, queue, number, row, *broken)


def _count(row: state_pb2.TaskRow, status: Status, by: int) -> None:
    if status == OPEN:
        row.dependencies_open += by
    elif status == HOLDS:
        row.dependencies_held += by


def _status_of_deleted(dependency: task_pb2.Dependency) -> Status:
    """Return what a dependency is whose parent is gone, once its task waits again.

    Only dead letters are ever removed before a task that failed through a parent.
    """
    needs_success = dependency.condition <= _Dependency.CONDITION_COMPLETED
    return BROKEN if needs_success else HOLDS


def _is_hopeless(row: state_pb2.TaskRow) -> bool:
    return row.dependencies_held + row.dependencies_open < row.dependencies_needed


def _put_edge(space: Space, key: bytes, edge: state_pb2.DependentRow) -> None:
    space.workspace.put(tables.DEPENDENTS, key, edge.SerializeToString(deterministic=True))


def read_dependencies(view: View, prefix: bytes, number: int) -> state_pb2.DependenciesRow:
    """Return what a task depends on; it has dependencies."""
    found = find_dependencies(view, prefix, number)
    assert found is not None, f"task {number} has no dependencies"
    return found


def find_dependencies(view: View, prefix: bytes, number: int) -> state_pb2.DependenciesRow | None:
    """Return what a task depends on; None if it depends on nothing, or is gone."""
    row = view.get(tables.DEPENDENCIES, tables.number_key(prefix, number))
    return None if row is None else state_pb2.DependenciesRow.FromString(row)


def read_edge(
    view: View, prefix: bytes, parent: int, dependency: task_pb2.Dependency, number: int
) -> state_pb2.DependentRow | None:
    """Return what was made of one dependency of a task; None if the parent is gone."""
    key = tables.dependent_key(prefix, parent, _group_of(dependency), number)
    row = view.get(tables.DEPENDENTS, key)
    return None if row is None else state_pb2.DependentRow.FromString(row)


def _first_that_broke_it(
    space: Space, number: int, row: state_pb2.TaskRow
) -> tuple[int, state_pb2.DependentRow, state_pb2.TaskRow] | None:
    """Return parent, dependency and parent's row of the end after which too few were left."""
    found: list[_Broken] = []
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    for place, (parent_number, dependency) in enumerate(
        zip(all_of_it.on, all_of_it.depends_on, strict=True)
    ):
        value = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, parent_number))
        if value is None:
            continue
        parent = state_pb2.TaskRow.FromString(value)
        if status_of(dependency.condition, parent) == BROKEN:
            found.append(_Broken(parent.finished_at_ms, parent_number, place))
    spare = len(all_of_it.on) - row.dependencies_needed
    if len(found) <= spare:
        return None
    _, parent_number, place = sorted(found)[spare]
    dependency = all_of_it.depends_on[place]
    edge = state_pb2.DependentRow(condition=dependency.condition, otherwise=dependency.otherwise)
    return parent_number, edge, rows.read_task(space.workspace, space.prefix, parent_number)


# --- a parent's end, and its redrive ---


def _tell_dependents(space: Space, _queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    if row.has_dependents:
        changed(space, number, row)


def changed(space: Space, number: int, row: state_pb2.TaskRow) -> None:
    """Bring the dependents of a task in line with it: it has ended, or was redriven."""
    kind = state_pb2.ContinuationRow.KIND_DEPENDENTS
    continuations.begin(space, kind, number, row.redrives)


def _align_all(
    space: Space, job: state_pb2.ContinuationRow, items_max: int
) -> Generator[None, None, Progress]:
    """Bring the next dependents of a task in line with how it stands."""
    owner = job.owner
    found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, owner))
    if found is None:
        return Progress(0, complete=True)
    parent = state_pb2.TaskRow.FromString(found)
    if parent.redrives != job.generation:
        return Progress(0, complete=True)  # a later continuation does all of it
    start = job.cursor + b"\0" if job.cursor else tables.number_key(space.prefix, owner)
    edges = _edges_from(space, start, owner, items_max + 1)
    items = 0
    for key, value in edges[:items_max]:
        yield
        items += 1
        edge = state_pb2.DependentRow.FromString(value)
        items += yield from _align(space, owner, parent, key, edge)
        job.cursor = key
        if items >= items_max:
            break
    return Progress(items, complete=not edges or job.cursor == edges[-1][0])


def _edges_from(space: Space, start: bytes, owner: int, limit: int) -> list[tuple[bytes, bytes]]:
    stop = tables.number_key(space.prefix, owner + 1)
    return list(space.workspace.scan(tables.DEPENDENTS, start, stop, limit=limit))


def _align(
    space: Space, owner: int, parent: state_pb2.TaskRow, key: bytes, edge: state_pb2.DependentRow
) -> Generator[None, None, int]:
    """Bring one dependent in line; return how many further items that cost."""
    number = tables.split_number(key)
    found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, number))
    assert found is not None, f"task {number} depends on task {owner}, and is gone"
    row = state_pb2.TaskRow.FromString(found)
    status = status_of(edge.condition, parent)
    if row.state == states.BLOCKED:
        if (edge.status, edge.redrives) == (status, parent.redrives):
            return 0
        _count(row, edge.status, -1)
        _count(row, status, 1)
        edge.status, edge.redrives = status, parent.redrives
        _put_edge(space, key, edge)
        queue = space.queue(row.queue_id)
        if row.dependencies_held >= row.dependencies_needed:
            transitions.unblock(space, queue, number, row)
        elif _is_hopeless(row):
            _give_up(space, queue, number, row, owner, edge, parent)
        space.put_task(number, row)
        return 0
    if _failed_through(row, owner) and status != BROKEN:
        return (yield from _take_back(space, number, row))
    return 0


def _failed_through(row: state_pb2.TaskRow, owner: int) -> bool:
    by_a_parent = row.failure_reason == task_pb2.FAILURE_REASON_DEPENDENCY
    return by_a_parent and row.ended_by == owner


def _give_up(
    space: Space,
    queue: Queue,
    number: int,
    row: state_pb2.TaskRow,
    owner: int,
    edge: state_pb2.DependentRow,
    parent: state_pb2.TaskRow,
) -> None:
    """End a BLOCKED task of which too few dependencies are left, as the last one of them asks."""
    row.ended_by = owner
    task_id = rows.read_spec(space.workspace, space.prefix, number).task_id
    if _skips(edge):
        row.cancel_reason = task_pb2.CANCEL_REASON_SKIPPED
        transitions.finish(space, queue, number, row, task_id, states.CANCELLED)
    elif parent.state == states.CANCELLED and not is_skipped(parent):
        row.cancel_reason = task_pb2.CANCEL_REASON_DEPENDENCY
        transitions.finish(space, queue, number, row, task_id, states.CANCELLED)
    else:
        reason = task_pb2.FAILURE_REASON_DEPENDENCY
        transitions.fail(space, queue, number, row, task_id, reason)


def _take_back(space: Space, number: int, row: state_pb2.TaskRow) -> Generator[None, None, int]:
    """Let a task that failed through a parent wait again; return how many items that cost.

    Other parents may have ended meanwhile: all its dependencies are looked at anew.
    """
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    row.dependencies_open = row.dependencies_held = 0
    for parent_number, dependency in zip(all_of_it.on, all_of_it.depends_on, strict=True):
        yield
        found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, parent_number))
        if found is None:
            _count(row, _status_of_deleted(dependency), 1)
            continue
        parent = state_pb2.TaskRow.FromString(found)
        status = status_of(dependency.condition, parent)
        _count(row, status, 1)
        edge = state_pb2.DependentRow(
            condition=dependency.condition,
            otherwise=dependency.otherwise,
            status=status,
            redrives=parent.redrives,
        )
        group = _group_of(dependency)
        _put_edge(space, tables.dependent_key(space.prefix, parent_number, group, number), edge)
    queue = space.queue(row.queue_id)
    if _is_hopeless(row):
        broken = _first_that_broke_it(space, number, row)
        if broken is not None:
            row.ended_by = broken[0]
        space.put_task(number, row)
        return len(all_of_it.on)
    transitions.reopen(space, queue, number, row, states.BLOCKED)
    if row.dependencies_held >= row.dependencies_needed:
        transitions.unblock(space, queue, number, row)
    space.put_task(number, row)
    if row.has_dependents:
        changed(space, number, row)
    return len(all_of_it.on)


# --- what a task's dependents forbid ---


def keeps_from_redrive(space: Space, number: int, row: state_pb2.TaskRow) -> Refused | None:
    """Return why a dead letter is not to be redriven: what its end has set off cannot be undone.

    Tasks that only wait, or that failed with it, are taken back; these forbid nothing.
    """
    if not row.has_dependents:
        return None
    start = tables.dependent_key(space.prefix, number, tables.AFTER_FAILURE, 0)
    edges = _edges_from(space, start, number, DEPENDENTS_LOOKED_AT)
    for key, value in edges:
        dependent = tables.split_number(key)
        found = rows.read_task(space.workspace, space.prefix, dependent)
        edge = state_pb2.DependentRow.FromString(value)
        let_go = edge.status == HOLDS and edge.redrives == row.redrives
        may_have_run = found.state not in states.TERMINAL or found.token
        if found.state == states.BLOCKED or not (
            (let_go and may_have_run) or (is_skipped(found) and found.ended_by == number)
        ):
            continue
        name = rows.read_spec(space.workspace, space.prefix, dependent).task_id
        what = "was skipped" if is_skipped(found) else "was let go"
        return _has_dependents(
            name, f"task {name} {what} because this one failed; with force it stays as it is"
        )
    if len(edges) == DEPENDENTS_LOOKED_AT:
        return _has_dependents(
            "", "over 100 tasks depend on its failure; with force those that were let go stay so"
        )
    return None


class Hold(NamedTuple):
    """Why a task is not removed yet."""

    why: Refused
    again_in_ms: int
    """When its dependents are worth another look."""


def keeps_from_removal(
    space: Space, number: int, row: state_pb2.TaskRow, *, is_dead: bool = False
) -> Hold | None:
    """Return why a terminal task is not to be removed; if there is nothing, forget its dependents.

    ``is_dead``: an operator deletes this dead letter, and with it the way back of the tasks that
    failed through it.
    """
    if not row.has_dependents:
        return None
    start = tables.number_key(space.prefix, number)
    edges = _edges_from(space, start, number, DEPENDENTS_LOOKED_AT + 1)
    for key, _ in edges[:DEPENDENTS_LOOKED_AT]:
        dependent = tables.split_number(key)
        found = rows.read_task(space.workspace, space.prefix, dependent)
        may_wait_again = found.failure_reason == task_pb2.FAILURE_REASON_DEPENDENCY and not is_dead
        if found.state not in states.TERMINAL or may_wait_again:
            name = rows.read_spec(space.workspace, space.prefix, dependent).task_id
            why = _has_dependents(name, f"task {name} depends on it, and may still need it")
            return Hold(why, _PUT_OFF_MS)
    over = len(edges) > DEPENDENTS_LOOKED_AT
    if over and is_dead:
        return Hold(_has_dependents("", "it has over 100 dependents: it goes after them"), 0)
    for key, _ in edges[:DEPENDENTS_LOOKED_AT]:
        space.workspace.delete(tables.DEPENDENTS, key)
    if over:
        return Hold(_has_dependents("", "it has over 100 dependents: they go first"), 0)
    return None


_PUT_OFF_MS: Final = MINUTE_MS


def _has_dependents(task_id: str, message: str) -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_HAS_DEPENDENTS,
        message=message,
        field="task_id",
        metadata={"field": "task_id", "task_id": task_id},
    )


def forget(space: Space, number: int) -> Generator[None, None, int]:
    """Remove the dependencies of a task that is being removed; return how many rows that were."""
    all_of_it = read_dependencies(space.workspace, space.prefix, number)
    for parent_number, dependency in zip(all_of_it.on, all_of_it.depends_on, strict=True):
        yield
        key = tables.dependent_key(space.prefix, parent_number, _group_of(dependency), number)
        space.workspace.delete(tables.DEPENDENTS, key)
    space.workspace.delete(tables.DEPENDENCIES, tables.number_key(space.prefix, number))
    return len(all_of_it.on) + 1


# --- what must hold ---


def _audit(state: Audited) -> Iterator[str]:
    """Check that edges, counts and states agree, but for parents whose continuation is under way.

    A task in BLOCKED has neither enough nor too few dependencies, and each of them is what its
    parent has made of it.
    """
    jobs = {
        (job.owner, job.generation)
        for job in map(
            state_pb2.ContinuationRow.FromString, state.rows(tables.CONTINUATIONS).values()
        )
    }
    found = state.rows(tables.DEPENDENTS)
    expected: Rows = {}
    dependencies = state.rows(tables.DEPENDENCIES)
    wanted = {
        tables.number_key(state.prefix, number): number
        for number, row in state.rows_of_tasks.items()
        if row.has_dependencies
    }
    for key in sorted(dependencies.keys() ^ wanted.keys()):
        yield f"table {tables.DEPENDENCIES}, key {key.hex()}: missing, or of no task"
    for key, value in dependencies.items():
        if key in wanted:
            yield from _audit_task(state, wanted[key], value, found, expected, jobs)
    for key in sorted(found.keys() - expected.keys()):
        yield f"table {tables.DEPENDENTS}, key {key.hex()}: belongs to nothing"


def _audit_task(
    state: Audited,
    number: int,
    value: bytes,
    found: Rows,
    expected: Rows,
    jobs: set[tuple[int, int]],
) -> Iterator[str]:
    row = state.rows_of_tasks[number]
    all_of_it = state_pb2.DependenciesRow.FromString(value)
    counted = state_pb2.TaskRow()
    for parent_number, dependency in zip(all_of_it.on, all_of_it.depends_on, strict=True):
        key = tables.dependent_key(state.prefix, parent_number, _group_of(dependency), number)
        parent = state.rows_of_tasks.get(parent_number)
        if key not in found:
            _count(counted, _status_of_deleted(dependency), 1)
            if parent is not None and row.state not in states.TERMINAL:
                yield f"task {number} waits for task {parent_number}, which does not know"
            continue
        expected[key] = b""
        edge = state_pb2.DependentRow.FromString(found[key])
        _count(counted, edge.status, 1)
        if parent is None:
            yield f"task {number} depends on task {parent_number}, which is gone"
            continue
        if not parent.has_dependents:
            yield f"task {parent_number} has dependents, and its row does not say so"
        if row.state != states.BLOCKED or (parent_number, parent.redrives) in jobs:
            continue
        status = status_of(edge.condition, parent)
        if edge.status != status:
            yield f"task {number} takes task {parent_number} for {edge.status}, it is {status}"
    if row.state != states.BLOCKED:
        return
    counts = (row.dependencies_open, row.dependencies_held)
    if counts != (counted.dependencies_open, counted.dependencies_held):
        yield f"task {number} counts {counts}, its dependencies say otherwise"
    if row.dependencies_held >= row.dependencies_needed or _is_hopeless(row):
        yield f"task {number} is BLOCKED with {counts} of {row.dependencies_needed}"


FEATURE: Final = Feature(
    name="dependencies",
    since=continuations.CONTINUATIONS_VERSION,
    steps=Moments(end=(_tell_dependents,)),
    continuations={state_pb2.ContinuationRow.KIND_DEPENDENTS: _align_all},
    audits=(_audit,),
)
