"""Concurrent submits share calls, and each caller gets its own answer."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.message import Message

from tests.client.fake_broker import (
    Call,
    Context,
    FakeBroker,
    Step,
    hold_until,
    lose_reply,
    refuse,
    serving,
)
from tq_client import AsyncClient, Reason, TqError, task_spec
from tq_client.errors import InvalidArgumentError, OutcomeUnknownError, UnavailableError

MIB = 1 << 20


async def test_submits_made_in_the_same_turn_of_the_loop_share_one_call() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        task_ids = await asyncio.gather(
            *(client.submit("mail", "send", task_id=f"t{number}") for number in range(500))
        )

    [call] = broker.of("Submit")
    assert len(call.tasks) == 500
    assert task_ids == [f"t{number}" for number in range(500)]


async def test_a_lone_submit_goes_at_once() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        for _ in range(3):
            await client.submit("mail", "send")

    assert [len(call.tasks) for call in broker.of("Submit")] == [1, 1, 1]


async def test_submits_made_while_a_call_is_in_flight_go_together_once_it_returns() -> None:
    release = asyncio.Event()
    broker = FakeBroker(steps=[hold_until(release)])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        first = asyncio.create_task(client.submit("mail", "send"))
        await broker.arrived.wait()
        others = []
        for _ in range(10):
            others.append(asyncio.create_task(client.submit("mail", "send")))
            await asyncio.sleep(0)
        assert len(broker.calls) == 1
        release.set()
        await asyncio.gather(first, *others)

    assert [len(call.tasks) for call in broker.of("Submit")] == [1, 10]


async def test_a_full_call_does_not_wait_for_the_one_in_flight() -> None:
    release = asyncio.Event()
    broker = FakeBroker(steps=[hold_until(release)])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        first = asyncio.create_task(client.submit("mail", "send"))
        await broker.arrived.wait()
        await asyncio.gather(*(client.submit("mail", "send") for _ in range(1_000)))
        assert not first.done()
        release.set()
        await first

    # By request id: a broker that holds a call for long is asked for it again.
    calls = {call.request_id: len(call.tasks) for call in broker.of("Submit")}
    assert list(calls.values()) == [1, 1_000]


async def test_a_call_carries_at_most_about_a_mebibyte_but_always_one_task() -> None:
    payloads = [bytes(MIB // 2), bytes(MIB // 4), bytes(MIB // 2), bytes(3 * MIB), b""]
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await asyncio.gather(*(client.submit("mail", "send", payload) for payload in payloads))
        outcomes = await client.submit_many(
            [task_spec("mail", "send", payload) for payload in payloads]
        )

    sizes = [[len(task.payload) for task in call.tasks] for call in broker.of("Submit")]
    expected = [[MIB // 2, MIB // 4], [MIB // 2], [3 * MIB], [0]]
    assert sorted(sizes[:4]) == sorted(expected)
    assert sizes[4:] == expected
    assert all(isinstance(outcome, str) for outcome in outcomes)


async def test_one_tasks_refusal_reaches_its_own_caller_alone() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        first, refused, last = await asyncio.gather(
            client.submit("mail", "send", task_id="first"),
            client.submit("mail", "send", priority=300),
            client.submit("mail", "send", task_id="last"),
            return_exceptions=True,
        )

    assert (first, last) == ("first", "last")
    assert isinstance(refused, InvalidArgumentError)
    assert refused.field == "priority"
    assert len(broker.calls) == 1


async def test_a_refused_call_fails_each_of_its_submits() -> None:
    broker = FakeBroker(steps=[refuse_all()])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        errors = await asyncio.gather(
            *(client.submit("mail", "send") for _ in range(3)), return_exceptions=True
        )

    assert [getattr(error, "reason", None) for error in errors] == [Reason.INTERNAL] * 3
    assert len({id(error) for error in errors}) == 3


async def test_a_repeated_call_carries_the_tasks_of_the_first_and_none_that_came_later() -> None:
    release = asyncio.Event()

    async def hold_and_lose(broker: FakeBroker, call: Call, context: Context) -> Message:
        await release.wait()
        return await lose_reply(broker, call, context)

    broker = FakeBroker(steps=[hold_and_lose])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        first = asyncio.create_task(client.submit("mail", "send", task_id="first"))
        await broker.arrived.wait()
        later = asyncio.create_task(client.submit("mail", "send", task_id="later"))
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(first, later)

    calls = [[task.task_id for task in call.tasks] for call in broker.of("Submit")]
    assert calls == [["first"], ["first"], ["later"]]


async def test_a_submit_that_was_given_up_before_it_was_sent_is_never_sent() -> None:
    release = asyncio.Event()
    broker = FakeBroker(steps=[hold_until(release)])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        first = asyncio.create_task(client.submit("mail", "send", task_id="first"))
        await broker.arrived.wait()
        cancelled = asyncio.create_task(client.submit("mail", "send", task_id="cancelled"))
        kept = asyncio.create_task(client.submit("mail", "send", task_id="kept"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(UnavailableError, match="not sent before"):
            await client.submit("mail", "send", task_id="late", timeout_s=0.01)
        release.set()
        await asyncio.gather(first, kept)

    calls = [[task.task_id for task in call.tasks] for call in broker.of("Submit")]
    assert calls == [["first"], ["kept"]]


async def test_a_submit_with_a_short_deadline_does_not_shorten_the_call_it_shares() -> None:
    release = asyncio.Event()
    left_s: list[float] = []

    async def note_and_hold(broker: FakeBroker, call: Call, context: Context) -> Message:
        left_s.append(context.time_remaining())
        return await hold_until(release)(broker, call, context)

    broker = FakeBroker(steps=[note_and_hold])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        hasty = asyncio.create_task(client.submit("mail", "send", timeout_s=0.1))
        patient = asyncio.create_task(client.submit("mail", "send", task_id="patient"))
        with pytest.raises(OutcomeUnknownError) as caught:
            await hasty
        release.set()
        assert await patient == "patient"

    [call] = broker.of("Submit")
    assert caught.value.metadata == {"request_id": call.request_id}
    assert left_s[0] > 0.1


async def test_submit_many_answers_for_each_task_in_its_place() -> None:
    specs = [task_spec("mail", "send", task_id=f"t{number}") for number in range(2_500)]
    specs[1_200].priority = 300
    broker = FakeBroker()
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        outcomes = await client.submit_many(specs)

    refused = outcomes.pop(1_200)
    assert isinstance(refused, TqError)
    assert outcomes == [f"t{number}" for number in range(2_500) if number != 1_200]
    calls = broker.of("Submit")
    assert [len(call.tasks) for call in calls] == [1_000, 1_000, 500]
    assert len({call.request_id for call in calls}) == 3


async def test_submit_many_tells_which_tasks_a_failed_call_held() -> None:
    specs = [task_spec("mail", "send", task_id=f"t{number}") for number in range(1_500)]
    broker = FakeBroker(steps=[refuse_all()])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        outcomes = await client.submit_many(specs)

    assert all(isinstance(outcome, TqError) for outcome in outcomes[:1_000])
    assert outcomes[1_000:] == [f"t{number}" for number in range(1_000, 1_500)]


def refuse_all() -> Step:
    """Refuse the whole call, as a fault of the broker does."""
    return refuse(Reason.INTERNAL, grpc.StatusCode.INTERNAL)
