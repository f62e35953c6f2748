"""What callers hold can be sent to another process; a typed task can be run in this one."""

from __future__ import annotations

import inspect
import pickle  # noqa: TID251  # it is callers who do that

import pytest

import tq_client as client
from tests.worker.typed_handlers import add, place
from tq.v1.task_pb2 import Task, TaskSpec, TaskState
from tq_client import Backoff, errors
from tq_worker import (
    Handle,
    PermanentError,
    RetryableError,
    Snooze,
    TaskCancelledError,
    TaskFailedError,
)
from tq_worker.api.errors import UsageError


def again(value: object) -> object:
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # our own


def every_error() -> list[type[errors.TqError]]:
    return [
        each
        for each in vars(errors).values()
        if inspect.isclass(each) and issubclass(each, errors.TqError)
    ]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_client_comes_through_a_pickle(kind: type[errors.TqError]) -> None:
    error = kind(
        "no such task",
        reason=errors.Reason.NOT_FOUND,
        field="task_id",
        metadata={"a": "b"},
        retry_after_s=1.5,
    )

    back = again(error)

    assert type(back) is kind
    assert (str(back), vars(back)) == (str(error), vars(error))


@pytest.mark.parametrize(
    "error",
    [
        PermanentError("never"),
        RetryableError("later", retry_after_s=3),
        Snooze(30, "not ready"),
        TaskCancelledError("it was cancelled"),
        UsageError(["one", "two"]),
    ],
)
def test_every_error_of_the_worker_comes_through_a_pickle(error: Exception) -> None:
    back = again(error)

    assert type(back) is type(error)
    assert (str(back), vars(back)) == (str(error), vars(error))


def test_a_failed_task_comes_through_a_pickle() -> None:
    task = Task(
        spec=TaskSpec(task_id="t1", type="add"),
        state=TaskState.TASK_STATE_FAILED,
        last_error="OSError: no",
    )
    error = TaskFailedError(client.Task.of(task))

    back = again(error)

    assert isinstance(back, TaskFailedError)
    assert (str(back), back.task) == (str(error), error.task)


def test_handles_and_typed_tasks_come_through_a_pickle_with_their_options() -> None:
    late = add.options(delay=60, retries=7, backoff=Backoff(first=1))

    back = again(late)
    handle = again(Handle("t1", late))

    assert isinstance(back, type(add))
    assert back.spec(1).max_attempts == 8
    assert back.spec(1).retry_policy.initial_backoff.seconds == 1
    assert isinstance(handle, Handle)
    assert handle.task_id == "t1"


def test_a_typed_task_can_be_called() -> None:
    assert add(1, b=2) == 3
    with pytest.raises(TypeError, match=r"place is async: await place\.function\(\.\.\.\)"):
        place(b"key")


def test_a_handle_is_made_of_an_id() -> None:
    assert add.handle("t1") == Handle("t1", add)
