"""A feature registers itself once: its steps, decisions, timed work and audit run from one list."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest

import tq_cluster.core
from tests.core.lone_queue import LoneQueue, spec
from tests.scopes import scope_of
from tq.internal.v1 import state_pb2
from tq.v1 import task_service_pb2
from tq_cluster.core.decide import decide
from tq_cluster.core.features import CLUSTER_VERSION, FEATURES, REGISTRY
from tq_cluster.core.invariants import violations
from tq_cluster.core.kernel import task_events
from tq_cluster.core.kernel.audit import Audited
from tq_cluster.core.kernel.batch import CLUSTER_VERSION_FIRST, Kept, Moments, Space, Step
from tq_cluster.core.kernel.feature import (
    Feature,
    Instants,
    Registry,
    Slice,
    TimedWork,
    decides,
)
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model.operations import (
    ANONYMOUS,
    Cancel,
    Done,
    Operation,
    Submit,
)
from tq_cluster.core.model.types import TimestampMs
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

# ---------------------------------------------------------------- a feature, as its module has it

REMINDED = b"reminded/"
"""Rows of META: one for each task that has ended and of which no reminder was sent yet."""


def remind(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    space.workspace.put(tables.META, REMINDED + number.to_bytes(8, "big"), b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReminders(Operation):
    """Drop the oldest reminders."""

    order: ClassVar[int] = 5
    most: int


def decide_send(space: Space, operation: SendReminders) -> Done:
    found = reminders(space.workspace)[: operation.most]
    for number in found:
        space.workspace.delete(tables.META, REMINDED + number.to_bytes(8, "big"))
        space.batch.changed = True
    return Done(more=operation.most == len(found), items=len(found))


def reminders(view: View) -> list[int]:
    found = view.scan(tables.META, REMINDED, tables.end_of(REMINDED), limit=100)
    return [int.from_bytes(key[-8:], "big") for key, _ in found]


def first(scope: Scope[View], at: Instants, passed_over: Collection[int]) -> int | None:
    return next((each for each in reminders(scope.view) if each not in passed_over), None)


def next_in_ms(scope: Scope[View], at: Instants) -> int | None:
    return 0 if reminders(scope.view) else None


def sending(work: Slice) -> SendReminders:
    return SendReminders(most=work.items_max, caller=work.caller)


def audit(state: Audited) -> Iterator[str]:
    ended = {number for number, row, _ in state.tasks if row.finished_at_ms}
    for number in reminders(state.view):
        if number not in ended:
            yield f"task {number} has a reminder and has not ended"


REMINDERS = Feature(
    name="reminders",
    since=CLUSTER_VERSION,
    steps=Moments(end=(remind,)),
    decisions=(decides(SendReminders, decide_send),),
    timed_work=(
        TimedWork(kind="reminders", first=first, next_in_ms=next_in_ms, operation=sending),
    ),
    audits=(audit,),
)

# ---------------------------------------------------------------- what its line in the list does


def test_a_feature_in_the_list_is_decided_worked_off_and_audited() -> None:
    registry = Registry((*FEATURES, REMINDERS))
    queue = LoneQueue()
    [task_id] = queue.submitted(spec())
    workspace = queue.store.workspace()
    now_ms = TimestampMs(queue.now_ms)

    def outcome(operation: Operation) -> object:
        [found] = decide([operation], now_ms, workspace, queue._draw, registry=registry).outcomes
        return found

    outcome(Cancel(request=task_service_pb2.CancelTaskRequest(task_id=task_id)))
    scope: Scope[View] = scope_of(workspace)
    [work] = [each for each in registry.timed_work if each.kind == "reminders"]
    at = Instants(now_ms, now_ms)
    number = work.first(scope, at, ())
    assert number is not None, "the step at the task's end ran"
    assert work.first(scope, at, {number}) is None
    assert violations(scope, registry) == []

    sent = outcome(work.operation(Slice(10, frozenset(), more=False, caller=ANONYMOUS)))
    assert sent == Done(more=False)
    assert work.first(scope, at, ()) is None

    workspace.put(tables.META, REMINDED + bytes(8), b"")
    assert violations(scope, registry) == ["task 0 has a reminder and has not ended"]
    assert violations(scope) == [], "a feature that is not in the list does nothing"


def test_steps_at_a_moment_run_in_the_order_of_the_features() -> None:
    ran: list[str] = []

    def step(name: str) -> Step:
        return lambda space, queue, number, row: ran.append(name)

    registry = Registry(
        [
            Feature(name="b", steps=Moments(end=(step("b1"), step("b2")))),
            Feature(name="a", steps=Moments(arrive=(step("a"),), end=(step("a"),))),
        ]
    )

    assert len(registry.moments.arrive) == 1
    assert registry.moments.ready == ()
    for each in registry.moments.end:
        each(None, None, 0, None)  # type: ignore[arg-type]  # these steps look at nothing
    assert ran == ["b1", "b2", "a"]


def test_events_tell_of_a_moment_once_all_other_steps_have_run() -> None:
    told = task_events.FEATURE.steps
    for moment in ("arrive", "start", "end"):
        assert getattr(REGISTRY.moments, moment)[-1:] == getattr(told, moment), moment


# ---------------------------------------------------------------- what the list may not hold


def test_every_kind_of_operation_is_decided() -> None:
    kinds = set()
    for found in pkgutil.walk_packages(tq_cluster.core.__path__, "tq_cluster.core."):
        for each in vars(importlib.import_module(found.name)).values():
            if isinstance(each, type) and issubclass(each, Operation) and each is not Operation:
                kinds.add(each)

    assert len(kinds) > 20
    assert kinds == REGISTRY.decisions.keys()


def decide_nothing(space: Space, operation: Submit) -> Done:
    return Done(more=False)


KEPT = Kept(version=2, on_demand=False, source=tables.TASKS, fill=lambda *_: 1)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([Feature(name="a"), Feature(name="a")], "two features have one name"),
        (
            [
                Feature(name="a", decisions=(decides(Submit, decide_nothing),)),
                Feature(name="b", decisions=(decides(Submit, decide_nothing),)),
            ],
            "two features decide Submit",
        ),
        (
            [
                Feature(name="a"),
                Feature(name="b", since=2, kept_tables={9: KEPT}),
                Feature(name="c", since=2, kept_tables={9: KEPT}),
            ],
            "two features keep table 9",
        ),
        (
            [Feature(name="a", kept_tables={9: KEPT})],
            "a: table 9 is kept from version 2 on, the feature is used from version 1 on",
        ),
        (
            [Feature(name="a"), Feature(name="b", since=3)],
            "cluster versions without a feature, or below the first: {2}",
        ),
        (
            [Feature(name="a"), Feature(name="b", since=0)],
            "cluster versions without a feature, or below the first: {0}",
        ),
        (
            [Feature(name="a", timed_work=(*REMINDERS.timed_work, *REMINDERS.timed_work))],
            "two kinds of timed work have one name",
        ),
    ],
)
def test_features_that_contradict_each_other_are_refused(
    features: list[Feature], message: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        Registry(features)


def test_the_cluster_version_is_that_of_the_newest_feature() -> None:
    newest = Feature(name="newest", since=CLUSTER_VERSION + 1)

    assert Registry((*FEATURES, newest)).cluster_version == CLUSTER_VERSION + 1
    assert min(feature.since for feature in FEATURES) == CLUSTER_VERSION_FIRST
