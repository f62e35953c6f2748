"""Calls that share a stream are, to their callers, what they are by themselves."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message
from grpc import aio

from tests.client.fake_broker import (
    Call,
    Context,
    FakeBroker,
    hang,
    hold_until,
    lose_reply,
    serving,
)
from tests.patience import PATIENCE_S
from tq.v1.conversation_service_pb2 import CallFailure
from tq.v1.worker_service_pb2 import ClaimRequest
from tq_client import AsyncClient, calls, conversation
from tq_client.conversation import REQUEST_BYTES_MAX


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers of a version that knows no conversations."""
    monkeypatch.setattr(FakeBroker, "converses", False)


async def until(fact: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not fact():  # noqa: ASYNC110  # any fact, not one event
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(what) from None


def talking(addresses: str) -> AsyncClient:
    return AsyncClient(addresses, conversations=True)


async def submit_all(client: AsyncClient, count: int) -> list[str]:
    submits = [client.submit("mail", "send", task_id=f"t{each}") for each in range(count)]
    return list(await asyncio.gather(*submits))


async def test_all_calls_to_a_broker_share_one_conversation() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, talking(addresses) as client:
        await client.submit("mail", "send")
        await asyncio.gather(*(client.get(f"t{number}") for number in range(100)))
        await client.cluster_status()  # it is no call of theirs

    assert broker.conversations == 1
    assert len(broker.of("GetTask")) == 100


async def test_a_call_that_waits_holds_up_no_other() -> None:
    release = asyncio.Event()
    broker = FakeBroker(steps=[hold_until(release)])
    async with serving(broker) as addresses, talking(addresses) as client:
        waiting = asyncio.create_task(client.get("first"))
        await broker.arrived.wait()
        await client.get("second")
        assert not waiting.done()
        release.set()
        await waiting


async def test_a_cancelled_call_is_given_up_at_the_broker_and_alone() -> None:
    gone = asyncio.Event()

    async def held(_broker: FakeBroker, _call: Call, _context: Context) -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        raise AssertionError

    broker = FakeBroker(steps=[held])
    async with serving(broker) as addresses, talking(addresses) as client:
        claiming = asyncio.create_task(client.claim(ClaimRequest(worker_id="w")))
        await broker.arrived.wait()
        claiming.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await gone.wait()
        await client.get("another")

    assert broker.conversations == 1


async def test_a_call_out_of_time_is_repeated_in_the_same_conversation_if_others_are_answered() -> (
    None
):
    broker = FakeBroker(steps=[hang])
    async with serving(broker) as addresses, talking(addresses) as client:
        submitting = asyncio.create_task(client.submit("mail", "send"))
        await broker.arrived.wait()
        await client.get("t1")
        await submitting

    first, second = broker.of("Submit")
    assert first.request_id == second.request_id
    assert broker.conversations == 1


@pytest.mark.usefixtures("older")
async def test_an_older_broker_is_asked_for_each_call_by_itself() -> None:
    broker = FakeBroker(steps=[lose_reply])
    async with serving(broker) as addresses, talking(addresses) as client:
        assert await submit_all(client, 10) == [f"t{number}" for number in range(10)]
        await client.get("t1")

    assert broker.conversations == 0
    first, second = broker.of("Submit")
    assert first.request_id == second.request_id


@pytest.mark.usefixtures("older")
async def test_an_older_broker_is_asked_for_a_conversation_again_once_it_may_be_upgraded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversation, "UNKNOWN_S", 0.05)
    broker = FakeBroker()
    async with serving(broker) as addresses, talking(addresses) as client:
        await client.get("t1")
        monkeypatch.setattr(FakeBroker, "converses", True)
        await client.get("t2")
        assert broker.conversations == 0
        await asyncio.sleep(0.1)
        await client.get("t3")

    assert broker.conversations == 1
    assert len(broker.of("GetTask")) == 3


async def test_a_broker_without_room_for_a_conversation_gets_each_call_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversation, "REFUSED_S", 0.05)
    broker = FakeBroker(full=True)
    async with serving(broker) as addresses, talking(addresses) as client:
        await client.submit("mail", "send")
        assert len(broker.of("Submit")) == 1
        broker.full = False
        await asyncio.sleep(0.1)
        await client.get("t1")

    assert broker.conversations == 1


async def test_what_a_refusal_took_is_taken_off_the_time_of_the_attempt() -> None:
    left_s: list[float] = []

    async def note(broker: FakeBroker, call: Call, context: Context) -> Message:
        left_s.append(context.time_remaining())
        return await broker.answer(call, context)

    broker = FakeBroker(full=True, refused_after_s=0.3, steps=[note])
    async with serving(broker) as addresses, talking(addresses) as client:
        await client.get("t1")

    assert left_s[0] <= calls.ATTEMPT_FIRST_S - 0.2


async def test_calls_that_go_out_as_a_conversation_ends_are_repeated() -> None:
    async def end_at_once(broker: FakeBroker, _call: Call, _context: Context) -> Message:
        for each in broker.streams:
            each.cancel()
        raise asyncio.CancelledError

    broker = FakeBroker(steps=[end_at_once] * 3)
    async with serving(broker) as addresses, talking(addresses) as client:
        for _ in range(3):
            await asyncio.gather(*(client.get(f"t{number}") for number in range(50)))

    assert broker.conversations >= 2


async def test_a_conversation_from_which_nothing_is_heard_gives_way_to_another() -> None:
    broker = FakeBroker(mute=True)
    async with serving(broker) as addresses, talking(addresses) as client:
        waiting = asyncio.create_task(client.get("t1"))
        await until(lambda: broker.conversations == 2, "another is begun")
        broker.mute = False
        await waiting


async def test_the_stream_of_a_client_that_was_dropped_ends() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses:
        client = talking(addresses)
        await client.submit("mail", "send")
        assert len(broker.streams) == 1
        del client
        gc.collect()
        await until(lambda: not broker.streams, "the stream goes on")


async def test_calls_of_a_conversation_that_breaks_are_repeated_in_another() -> None:
    broker = FakeBroker(steps=[break_the_conversation])
    async with serving(broker) as addresses, talking(addresses) as client:
        await client.submit("mail", "send")

    first, second = broker.of("Submit")
    assert first.request_id == second.request_id
    assert broker.conversations == 2


async def break_the_conversation(broker: FakeBroker, _call: Call, _context: Context) -> Message:
    for each in broker.streams:
        each.cancel()
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_large_request_goes_by_itself() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, talking(addresses) as client:
        await client.submit("mail", "send", b"x" * REQUEST_BYTES_MAX)

    assert len(broker.of("Submit")) == 1
    assert broker.conversations == 0


async def test_an_old_conversation_gives_way_to_a_new_one_and_ends_with_its_last_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversation, "AGE_S", 0.0)
    release = asyncio.Event()
    broker = FakeBroker(steps=[hold_until(release)])
    async with serving(broker) as addresses, talking(addresses) as client:
        waiting = asyncio.create_task(client.get("first"))
        await broker.arrived.wait()
        await client.get("second")
        assert broker.conversations == 2
        assert len(broker.streams) == 2
        release.set()
        await waiting
        await until(lambda: len(broker.streams) == 1, "the old one has ended")


async def test_more_calls_at_a_time_than_a_conversation_takes_go_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversation, "CALLS_MAX", 5)
    release = asyncio.Event()
    broker = FakeBroker(steps=[hold_until(release)] * 8)
    async with serving(broker) as addresses, talking(addresses) as client:
        waiting = [asyncio.create_task(client.get(f"t{number}")) for number in range(8)]
        await until(lambda: len(broker.calls) == 8, "all have come")
        assert broker.in_conversations == 5
        release.set()
        await asyncio.gather(*waiting)


async def test_a_client_makes_each_call_by_itself_if_it_is_not_told_otherwise() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit("mail", "send")

    assert broker.conversations == 0
    assert len(broker.of("Submit")) == 1


async def test_a_closed_client_leaves_no_task_behind() -> None:
    def left() -> list[str]:
        return [
            each.get_name() for each in asyncio.all_tasks() if each.get_name() == "conversation"
        ]

    broker = FakeBroker()
    async with serving(broker) as addresses:
        async with talking(addresses) as client:
            await client.submit("mail", "send")
            assert left()
        await until(lambda: not left(), "one goes on")


def test_every_code_of_grpc_is_known() -> None:
    for code in grpc.StatusCode:
        failure = CallFailure(code=code.value[0], message="why")
        error = conversation._failure(failure, "", 0)  # no broker sends them all
        assert isinstance(error, aio.AioRpcError)
        assert (error.code(), error.details()) == (code, "why")
