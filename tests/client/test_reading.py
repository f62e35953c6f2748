"""Looking tasks up, waiting for them, going through pages; all of it without an event loop too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

from benchmarks.sweep import extremes
from tests.client.fake_broker import Call, Context, FakeBroker, serving
from tests.patience import PATIENCE_S
from tq.v1 import task_pb2
from tq.v1.queue_service_pb2 import (
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    ListQueuesRequest,
    ListQueuesResponse,
    QueueStats,
)
from tq.v1.task_options import OPTIONS
from tq.v1.task_service_pb2 import (
    ListTasksRequest,
    ListTasksResponse,
    WaitTaskRequest,
    WaitTaskResponse,
)
from tq.v1.worker_service_pb2 import ListWorkersResponse, WorkerInfo
from tq_client import (
    AsyncClient,
    Backoff,
    Client,
    TaskSpec,
    TaskState,
    task_spec,
)
from tq_client.services import tasks as calls


def task(task_id: str) -> task_pb2.Task:
    return task_pb2.Task(spec=TaskSpec(task_id=task_id))


def pages_of_tasks(request: ListTasksRequest) -> ListTasksResponse:
    """Answer three pages, the second empty: a scan's budget may end before it finds a match."""
    pages = {
        "": ListTasksResponse(tasks=[task("a"), task("b")], next_page_token="2"),
        "2": ListTasksResponse(next_page_token="3"),
        "3": ListTasksResponse(tasks=[task("c")]),
    }
    return pages[request.page_token]


def finishing_after(calls: int) -> Callable[[WaitTaskRequest], WaitTaskResponse]:
    """Answer that the task is not finished, ``calls`` times."""
    left = iter([False] * calls)

    def answer(request: WaitTaskRequest) -> WaitTaskResponse:
        finished = next(left, True)
        state = task_pb2.TASK_STATE_COMPLETED if finished else task_pb2.TASK_STATE_RUNNING
        return WaitTaskResponse(
            task=task_pb2.Task(spec=TaskSpec(task_id=request.task_id), state=state),
            finished=finished,
        )

    return answer


async def test_listing_goes_through_every_page_with_the_same_filters() -> None:
    broker = FakeBroker(answers={"ListTasks": pages_of_tasks})
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        listed = [
            each.task_id
            async for each in client.list_tasks(
                queue="mail",
                states=[TaskState.PENDING],
                labels={"team": "a"},
                page_size=2,
            )
        ]

    assert listed == ["a", "b", "c"]
    requests = broker.of("ListTasks")
    assert [request.page_token for request in requests] == ["", "2", "3"]
    for request in requests:
        request.ClearField("page_token")
    assert requests == [requests[0]] * 3


async def test_queues_and_dead_letters_are_paged_through_as_well() -> None:
    def queues(request: ListQueuesRequest) -> ListQueuesResponse:
        if request.page_token:
            return ListQueuesResponse(queues=[QueueStats(queue="b")])
        return ListQueuesResponse(queues=[QueueStats(queue="a")], next_page_token="2")

    def letters(request: ListDeadLettersRequest) -> ListDeadLettersResponse:
        if request.page_token:
            return ListDeadLettersResponse(tasks=[task("old")])
        return ListDeadLettersResponse(tasks=[task("new")], next_page_token="2")

    broker = FakeBroker(answers={"ListQueues": queues, "ListDeadLetters": letters})
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        assert [each.queue async for each in client.list_queues()] == ["a", "b"]
        found = [each.task_id async for each in client.dead_letters(queue="mail")]

    assert found == ["new", "old"]


async def test_waiting_asks_again_until_the_task_is_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "WAIT_SLICE_S", 5.0)
    broker = FakeBroker(answers={"WaitTask": finishing_after(2)})
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        finished = await client.wait("t1", timeout_s=60)

    assert finished.state == TaskState.COMPLETED
    waits = [request.wait.ToTimedelta() for request in broker.of("WaitTask")]
    assert waits == [timedelta(seconds=5)] * 3


async def test_a_wait_that_is_not_over_in_time_says_how_the_task_stands() -> None:
    broker = FakeBroker(answers={"WaitTask": finishing_after(1_000)})
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(TimeoutError, match=r"t1 is RUNNING after 0 s$"):
            await client.wait("t1", timeout_s=0)

    [request] = broker.of("WaitTask")
    assert request.HasField("wait")
    assert request.wait.ToTimedelta() == timedelta()


Answered = Callable[[Message], Message]


def workers(*found: WorkerInfo, led_s: int = 60) -> Answered:
    listing = ListWorkersResponse(workers=found)
    listing.observed.FromSeconds(led_s)
    return lambda _request: listing


SERVES = WorkerInfo(worker_id="w", queues=["mail"], types=["send"])
OTHER_TYPE = WorkerInfo(worker_id="w", queues=["mail"], types=["receive"])
ANY_TYPE = WorkerInfo(worker_id="w", queues=["mail"], types=["receive"], any_type=True)
OLD_BROKER = WorkerInfo(worker_id="w", queues=["mail"])
LOST = WorkerInfo(worker_id="w", queues=["mail"], types=["send"], lost=True)
OTHER_QUEUE = WorkerInfo(worker_id="w", queues=["other"], types=["send"])
BUSY = WorkerInfo(worker_id="w", leases=4)
FULL = WorkerInfo(worker_id="w", queues=["mail"], types=["receive"], leases=4)
NO_QUEUE = ": no live worker claims from queue 'mail'"
NO_TYPE = ": no live worker of queue 'mail' claims type 'send'"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (workers(SERVES), ""),
        (workers(OTHER_TYPE, ANY_TYPE), ""),
        (workers(OTHER_TYPE, OLD_BROKER), ""),
        (workers(), NO_QUEUE),
        (workers(LOST, OTHER_QUEUE), NO_QUEUE),
        (workers(OTHER_TYPE, LOST), NO_TYPE),
        (workers(led_s=5), ""),
        (workers(OTHER_QUEUE, BUSY), ""),
        (workers(OTHER_TYPE, FULL), ""),
    ],
)
async def test_a_wait_for_what_no_live_worker_claims_says_so(
    answer: Answered, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "EXPLAINED_S", 0.0)
    pending = WaitTaskResponse(task=task("t1"))
    pending.task.state = task_pb2.TASK_STATE_PENDING
    pending.task.spec.queue, pending.task.spec.type = "mail", "send"
    broker = FakeBroker(answers={"WaitTask": lambda _request: pending, "ListWorkers": answer})
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(TimeoutError) as told:
            await client.wait("t1", timeout_s=0)

    assert str(told.value) == f"task t1 is PENDING after 0 s{why}"


async def test_waits_that_are_over_together_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "EXPLAINED_S", 0.0)
    pending = WaitTaskResponse(task=task("t1"))
    pending.task.state = task_pb2.TASK_STATE_PENDING
    answers = {"WaitTask": lambda _request: pending, "ListWorkers": workers()}
    broker = FakeBroker(answers=answers)
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        waits = [client.wait("t1", timeout_s=0) for _ in range(20)]
        told = await asyncio.gather(*waits, return_exceptions=True)

    assert {type(each) for each in told} == {TimeoutError}
    assert len(broker.of("ListWorkers")) == 1


async def test_a_wait_that_cannot_be_explained_is_over_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "EXPLAINED_S", 0.0)

    def refuse(_request: Message) -> Message:
        raise RuntimeError("no listing today")

    pending = WaitTaskResponse(task=task("t1"))
    pending.task.state = task_pb2.TASK_STATE_PENDING
    broker = FakeBroker(answers={"WaitTask": lambda _request: pending, "ListWorkers": refuse})
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(TimeoutError, match=r"t1 is PENDING after 0 s$"):
            await client.wait("t1", timeout_s=0)


async def test_blocking_submits_of_several_threads_share_calls() -> None:
    async def hold_until_others_wait(broker: FakeBroker, call: Call, context: Context) -> Message:
        async with asyncio.timeout(PATIENCE_S):
            running = client._engine._running
            assert running is not None
            waiting = running.client._coalescer._waiting
            while len(call.request.tasks) + len(waiting) < 4:  # noqa: ASYNC110  # it sets no event
                await asyncio.sleep(0.001)
        return await broker.answer(call, context)

    broker = FakeBroker(steps=[hold_until_others_wait])
    async with serving(broker) as addresses:
        client = await asyncio.to_thread(Client, addresses)
        with ThreadPoolExecutor(4) as pool:
            submits = [pool.submit(client.submit, "mail", "send") for _ in range(4)]
            await asyncio.gather(*map(asyncio.wrap_future, submits))
        await asyncio.to_thread(client.close)

    assert len(broker.submits) <= 2
    assert sum(len(response.results) for response in broker.submits.values()) == 4


async def test_the_blocking_client_does_what_the_other_does() -> None:
    broker = FakeBroker(answers={"ListTasks": pages_of_tasks, "WaitTask": finishing_after(1)})

    def use(addresses: str) -> None:
        with Client(addresses) as client:
            assert client.submit("mail", "send", task_id="t1") == "t1"
            assert client.submit_many([task_spec("mail", "send", task_id="t2")]) == ["t2"]
            assert client.submit_together([task_spec("mail", "send", task_id="t3")]) == ["t3"]
            assert client.wait("t1").state == TaskState.COMPLETED
            assert [each.task_id for each in client.list_tasks()] == ["a", "b", "c"]

    async with serving(broker) as addresses:
        await asyncio.to_thread(use, addresses)


def test_a_client_without_addresses_is_an_error_and_leaves_no_thread() -> None:
    with pytest.raises(ValueError, match="no address given"):
        Client(" , ")

    assert "tq-client" not in {thread.name for thread in threading.enumerate()}


async def test_addresses_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses:
        monkeypatch.setenv("TQ_ADDRESS", addresses)
        async with AsyncClient() as client:
            await client.submit("mail", "send")

    assert len(broker.calls) == 1


def test_a_spec_carries_every_field_in_its_own_unit() -> None:
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)

    options: Any = {each.name: extremes.most(each, noon) for each in OPTIONS if not each.by_hand}
    options |= {"run_at": noon, "timeout": timedelta(seconds=1.5)}
    options |= {"expire_at": noon + timedelta(hours=1)}

    options |= {"retries": 2, "backoff": Backoff(factor=3), "depends_on": ["t0"]}

    spec = task_spec("mail", "send", b"hello", **options)

    assert {field.name for field, _ in spec.ListFields()} == set(TaskSpec.DESCRIPTOR.fields_by_name)
    assert spec.run_at.ToDatetime(UTC) == noon
    assert spec.timeout.ToMilliseconds() == 1_500
    assert spec.expire_at.ToDatetime(UTC) - noon == timedelta(hours=1)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="run_at"):
        task_spec("mail", "send", run_at=datetime(2030, 1, 1))  # noqa: DTZ001  # the point
