"""Tasks that wait for others: the option, a submit of all or none, and what is said of them."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from tests.client.fake_broker import FakeBroker, lose_reply, refuse, serving
from tq.v1 import errors_pb2, queue_service_pb2, task_pb2
from tq.v1.task_pb2 import Dependency
from tq.v1.task_service_pb2 import WaitTaskResponse
from tq_client import After, AsyncClient, Client, Reason, Task, TaskSpec, task_spec
from tq_client.dependencies import moved
from tq_client.errors import (
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
)
from tq_client.services import tasks as calls

_DEPENDENCY = task_pb2.Dependency
_STATUS = task_pb2.DependencyStatus

# ---------------------------------------------------------------- the option


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("a", Dependency(task_id="a", condition=_DEPENDENCY.CONDITION_COMPLETED)),
        (0, Dependency(item=0, condition=_DEPENDENCY.CONDITION_COMPLETED)),
        (999, Dependency(item=999, condition=_DEPENDENCY.CONDITION_COMPLETED)),
        (
            SimpleNamespace(task_id="a"),
            Dependency(task_id="a", condition=_DEPENDENCY.CONDITION_COMPLETED),
        ),
        (
            After("a", "not_completed"),
            Dependency(task_id="a", condition=_DEPENDENCY.CONDITION_NOT_COMPLETED),
        ),
        (
            After(SimpleNamespace(task_id="a"), "ended"),
            Dependency(task_id="a", condition=_DEPENDENCY.CONDITION_ENDED),
        ),
        (
            After(3, otherwise="skip"),
            Dependency(
                item=3,
                condition=_DEPENDENCY.CONDITION_COMPLETED,
                otherwise=_DEPENDENCY.OTHERWISE_SKIP,
            ),
        ),
    ],
)
def test_a_dependency_is_an_id_something_that_has_one_a_position_or_an_after(
    entry: Any,  # noqa: ANN401  # as the test says
    expected: Dependency,
) -> None:
    assert list(task_spec("q", "t", depends_on=[entry]).depends_on) == [expected]


def test_there_may_be_nothing_to_wait_for() -> None:
    assert task_spec("q", "t", depends_on=[]) == TaskSpec(queue="q", type="t")


@pytest.mark.parametrize(
    "after",
    [
        After("a"),
        After(7),
        After("a", "not_completed"),
        After("a", "ended", "fail"),
        After(0, "completed", "skip"),
    ],
)
def test_an_after_comes_back_as_it_went(after: After) -> None:
    [sent] = task_spec("q", "t", depends_on=[after]).depends_on

    assert After.of(sent) == after


def test_a_condition_of_a_newer_broker_has_a_name_all_the_same() -> None:
    newer = Dependency.FromString(b"\x0a\x01a\x18\x09\x20\x09")

    assert After.of(Dependency(task_id="a")) == After("a")
    assert (After.of(newer).condition, After.of(newer).otherwise) == ("unknown_9", "unknown_9")


ENTRY = "it takes a task's id, a handle, After(...), or a position in the same call"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("a", TypeError("depends_on='a': it takes a list, each entry a task's id, a handle")),
        (After("a"), TypeError("it takes a list, each entry a task's id")),
        (iter(["a"]), TypeError("it takes a list, each entry a task's id")),
        ([None], TypeError(f"depends_on[0]=None: {ENTRY}")),
        ([1.5], TypeError(f"depends_on[0]=1.5: {ENTRY}")),
        ([True], TypeError(f"depends_on[0]=True: {ENTRY}")),
        (["a", After(After("b"))], TypeError("depends_on[1]=After(")),  # type: ignore[arg-type]  # the point
        ([uuid.UUID(int=7)], TypeError("a position in the same call; say str(depends_on[0])")),
        ([""], ValueError("depends_on[0]='': it has no task id; give its position instead")),
        ([task_spec("q", "t")], ValueError("it has no task id; give its position instead")),
        ([-1], ValueError("depends_on[0]=-1: positions from 0 to 999 are allowed")),
        ([1_000], ValueError("depends_on[0]=1000: positions from 0 to 999 are allowed")),
        (["a"] * 1_001, ValueError("depends_on has 1,001 entries; at most 1,000 are allowed")),
        (
            [After("a", "done")],  # type: ignore[arg-type]  # the point
            ValueError(
                "depends_on[0].condition='done': it takes 'completed', 'not_completed' or 'ended'"
            ),
        ),
        (
            ["a", After("b", otherwise=True)],  # type: ignore[arg-type]  # the point
            TypeError("depends_on[1].otherwise=True: it takes 'fail' or 'skip'"),
        ),
    ],
)
def test_what_a_dependency_cannot_be_is_said_with_its_place(given: Any, error: Exception) -> None:  # noqa: ANN401  # anything
    with pytest.raises(type(error)) as refused:
        task_spec("q", "t", depends_on=given)

    assert str(error) in str(refused.value)
    assert len(str(refused.value)) < 250


def test_positions_move_by_what_goes_before_and_the_task_of_the_caller_stays_as_it_is() -> None:
    alone = task_spec("q", "t", depends_on=["a"])
    behind = task_spec("q", "t", depends_on=[0, "a"])

    first, second = moved([alone, behind], 3)

    assert first is alone
    assert [After.of(each).task for each in second.depends_on] == [3, "a"]
    assert [After.of(each).task for each in behind.depends_on] == [0, "a"]
    assert moved([behind], 0) == [behind]


# ---------------------------------------------------------------- all or none


def a_graph() -> list[TaskSpec]:
    return [
        task_spec("q", "resize", task_id="one"),
        task_spec("q", "resize"),
        task_spec("q", "index", depends_on=[0, 1]),
    ]


async def test_tasks_are_submitted_together_in_one_call_that_can_be_repeated() -> None:
    broker = FakeBroker(steps=[lose_reply, lose_reply])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        task_ids = await client.submit_together(iter(a_graph()))

    first, *_ = requests = broker.of("SubmitTogether")
    assert len(requests) == 3
    assert len({request.request_id for request in requests}) == 1
    assert first.request_id
    assert list(first.tasks) == a_graph()
    assert task_ids == ["one", f"{first.request_id}-1", f"{first.request_id}-2"]


async def test_nothing_to_submit_takes_no_call() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        assert await client.submit_together([]) == []

    assert not broker.calls


async def test_more_than_a_thousand_are_refused_before_they_are_sent() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(
            InvalidArgumentError, match="has 1,001 tasks; at most 1,000 are created together"
        ) as refused:
            await client.submit_together([task_spec("q", "t")] * 1_001)

    assert refused.value.field == "tasks"
    assert refused.value.metadata == {"limit": "1000", "actual": "1001"}
    assert not broker.calls


@pytest.mark.parametrize(
    ("reason", "code", "kind"),
    [
        (Reason.CYCLE, grpc.StatusCode.INVALID_ARGUMENT, InvalidArgumentError),
        (Reason.NOT_FOUND, grpc.StatusCode.NOT_FOUND, NotFoundError),
        (Reason.TASK_EXISTS, grpc.StatusCode.ALREADY_EXISTS, ConflictError),
        (Reason.UNSUPPORTED, grpc.StatusCode.UNIMPLEMENTED, UnsupportedError),
    ],
)
async def test_a_refusal_is_an_error_that_names_the_field(
    reason: Reason, code: grpc.StatusCode, kind: type[Exception]
) -> None:
    steps = [refuse(reason, code, field="tasks[2].depends_on[0].item")] * 100
    async with serving(FakeBroker(steps=steps)) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(kind) as refused:
            await client.submit_together(a_graph(), timeout_s=0.5)

    error: Any = refused.value
    assert (error.reason, error.field) == (reason, "tasks[2].depends_on[0].item")


async def test_the_blocking_client_submits_together_as_well() -> None:
    broker = FakeBroker()

    def program(addresses: str) -> list[str]:
        with Client(addresses) as client:
            return client.submit_together(a_graph())

    async with serving(broker) as addresses:
        task_ids = await asyncio.to_thread(program, addresses)

    assert len(task_ids) == 3
    assert task_ids[0] == "one"


async def test_no_call_of_many_tasks_has_more_dependencies_than_brokers_take() -> None:
    many = [str(each) for each in range(600)]
    specs = [task_spec("q", "t", task_id=f"t{each}", depends_on=many) for each in range(20)]
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        at_once = await client.submit_many(specs)
        each_by_itself = await asyncio.gather(
            *(client.submit("q", "t", task_id=f"t{each}", depends_on=many) for each in range(20))
        )

    assert at_once == each_by_itself == [spec.task_id for spec in specs]
    counts = [len(request.tasks) for request in broker.of("Submit")]
    assert counts == [16, 4, 16, 4], "at most 10,000 dependencies a call"


# ---------------------------------------------------------------- what is said of a task


def a_task(
    state: task_pb2.TaskState.ValueType, *found: tuple[str, int, int], **others: object
) -> Task:
    """``found``: id, status and state of each dependency."""
    conditions: Any = others.pop("conditions", ["completed"] * len(found))
    depends_on = [
        After(name, condition) for (name, _, _), condition in zip(found, conditions, strict=True)
    ]
    need: Any = others.pop("need", None)
    reasons: Any = others
    message = task_pb2.Task(
        spec=task_spec("q", "t", task_id="t1", depends_on=depends_on, need=need),
        state=state,
        **reasons,
    )
    for name, status, of_parent in found:
        values: Any = {"status": status, "state": of_parent}
        message.dependencies.add(task_id=name, **values)
    return Task.of(message)


OPEN, HOLDS, BROKEN = _STATUS.STATUS_OPEN, _STATUS.STATUS_HOLDS, _STATUS.STATUS_BROKEN
RUNNING, FAILED = task_pb2.TASK_STATE_RUNNING, task_pb2.TASK_STATE_FAILED
COMPLETED, CANCELLED = task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_CANCELLED
BLOCKED = task_pb2.TASK_STATE_BLOCKED
OF_A_FAILURE = {"failure_reason": task_pb2.FAILURE_REASON_DEPENDENCY, "ended_by": "a"}
SKIPPED = {"cancel_reason": task_pb2.CANCEL_REASON_SKIPPED, "ended_by": "a"}
OF_A_CANCEL = {"cancel_reason": task_pb2.CANCEL_REASON_DEPENDENCY, "ended_by": "a"}


@pytest.mark.parametrize(
    ("task", "note"),
    [
        (a_task(BLOCKED, ("a", OPEN, RUNNING)), "it waits for task a, which is RUNNING"),
        (
            a_task(BLOCKED, ("h", HOLDS, COMPLETED), ("a", OPEN, RUNNING), ("b", OPEN, BLOCKED)),
            "it waits for 2 tasks; the first is a, which is RUNNING",
        ),
        (
            a_task(
                BLOCKED,
                *(("h", HOLDS, COMPLETED), ("a", OPEN, RUNNING), ("b", OPEN, BLOCKED)),
                need=2,
            ),
            "it waits for 1 of 2 tasks; the first is a, which is RUNNING",
        ),
        (a_task(BLOCKED), ""),
        (
            a_task(FAILED, ("b", HOLDS, COMPLETED), ("a", BROKEN, FAILED), **OF_A_FAILURE),
            "it never ran, as it depends on the success of task a, which is FAILED",
        ),
        (
            a_task(FAILED, ("a", BROKEN, RUNNING), **OF_A_FAILURE),
            "it never ran, as it depends on the success of task a, which ended otherwise",
        ),
        (
            a_task(FAILED, failure_reason=task_pb2.FAILURE_REASON_DEPENDENCY),
            "it never ran, as it depends on a task that ended in another way",
        ),
        (
            a_task(CANCELLED, ("a", BROKEN, COMPLETED), conditions=["not_completed"], **SKIPPED),
            "it was skipped, as it depends on the failure of task a, which is COMPLETED",
        ),
        (
            a_task(CANCELLED, ("a", BROKEN, CANCELLED), conditions=["not_completed"], **SKIPPED),
            "it was skipped, as it depends on the failure of task a, which was skipped",
        ),
        (
            a_task(CANCELLED, ("a", BROKEN, CANCELLED), **OF_A_CANCEL),
            "it was cancelled, as it depends on the success of task a, which is CANCELLED",
        ),
        (a_task(CANCELLED, cancel_reason=task_pb2.CANCEL_REASON_REQUESTED), ""),
        (a_task(FAILED, failure_reason=task_pb2.FAILURE_REASON_EXPIRED), ""),
        (a_task(COMPLETED, ("a", HOLDS, COMPLETED)), ""),
    ],
)
def test_a_task_says_in_words_what_its_dependencies_have_made_of_it(task: Task, note: str) -> None:
    assert task.dependency_note == note


async def test_a_wait_for_a_blocked_task_says_what_that_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "EXPLAINED_S", 0.0)
    blocked = WaitTaskResponse(task=a_task(BLOCKED, ("a", OPEN, RUNNING)).message)
    broker = FakeBroker(answers={"WaitTask": lambda _request: blocked})
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(TimeoutError, match=r"t1 is BLOCKED after 0 s: it waits for task a, w"):
            await client.wait("t1", timeout_s=0)

    assert not broker.of("ListWorkers")


# ---------------------------------------------------------------- dead letters


def item_errors() -> Sequence[errors_pb2.ItemError]:
    return [
        errors_pb2.ItemError(reason=errors_pb2.ERROR_REASON_NOT_FOUND, message="no such task"),
        errors_pb2.ItemError(
            reason=errors_pb2.ERROR_REASON_HAS_DEPENDENTS, message="task refund was let go"
        ),
    ]


async def test_what_was_not_redriven_or_deleted_comes_with_its_reason() -> None:
    skipped = {"skipped_task_ids": ["b", "c"], "skipped": item_errors()}
    broker = FakeBroker(
        answers={
            "Redrive": lambda _: queue_service_pb2.RedriveResponse(redriven=1, **skipped),  # type: ignore[arg-type]  # as they are
            "DeleteDeadLetters": lambda _: queue_service_pb2.DeleteDeadLettersResponse(
                deleted=2,
                remaining_task_ids=["d"],
                **skipped,  # type: ignore[arg-type]  # as above
            ),
        }
    )
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        redrive = await client.redrive(["a", "b", "c"], force=True)
        deletion = await client.delete_dead_letters(["a", "b", "c"])

    assert (redrive.redriven, redrive.skipped_task_ids) == (1, ("b", "c"))
    assert (deletion.deleted, deletion.remaining_task_ids) == (2, ("d",))
    for each in (redrive.skipped, deletion.skipped):
        assert isinstance(each["b"], NotFoundError)
        assert isinstance(each["c"], ConflictError)
        assert each["c"].reason is Reason.HAS_DEPENDENTS
    assert [request.force for request in broker.of("Redrive")] == [True]


async def test_a_broker_that_gives_no_reasons_is_understood_as_well() -> None:
    old = queue_service_pb2.RedriveResponse(redriven=1, skipped_task_ids=["b"])
    broker = FakeBroker(answers={"Redrive": lambda _request: old})
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        redrive = await client.redrive(["a", "b"])

    assert isinstance(redrive.skipped["b"], InvalidArgumentError)
    assert re.search("no dead letter, or there is no such task", str(redrive.skipped["b"]))


async def test_a_redrive_of_a_queue_takes_its_force_to_every_call() -> None:
    replies = iter(
        [
            queue_service_pb2.RedriveResponse(redriven=2, next_page_token="2"),
            queue_service_pb2.RedriveResponse(redriven=1),
        ]
    )
    broker = FakeBroker(answers={"Redrive": lambda _request: next(replies)})
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        counts = [each async for each in client.redrive_queue("q", force=True)]

    assert counts == [2, 1]
    assert [request.force for request in broker.of("Redrive")] == [True, True]
