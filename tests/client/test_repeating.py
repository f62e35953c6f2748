"""What the client does when a call is not answered, or answered with a refusal."""

from __future__ import annotations

import asyncio
import random
import socket

import grpc
import pytest
from google.protobuf.message import Message

from tests.client.fake_broker import (
    Call,
    Context,
    FakeBroker,
    break_off,
    hang,
    hold_until,
    lose_reply,
    redirect,
    refuse,
    serving,
    until_reached,
)
from tq.v1.worker_service_pb2 import ClaimRequest, HeartbeatRequest
from tq_client import AsyncClient, QueueSettings, Reason, boottime_s, calls
from tq_client.connections import QUIET_FIRST_S, Connections
from tq_client.errors import (
    BusyError,
    InternalError,
    InvalidArgumentError,
    OutcomeUnknownError,
    UnavailableError,
)
from tq_common.limits import TERM_STEP_MAX


async def test_a_submit_whose_replies_are_lost_creates_its_task_once() -> None:
    broker = FakeBroker(steps=[lose_reply, lose_reply])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        task_id = await client.submit("mail", "send", b"hello")

    first, second, third = broker.of("Submit")
    assert first.request_id
    assert first.request_id == second.request_id == third.request_id
    [created] = broker.submits.values()
    assert created.results[0].task.task_id == task_id


async def test_a_repeated_call_differs_from_the_first_in_its_growing_retry_age_alone() -> None:
    broker = FakeBroker(steps=[lose_reply, break_off, lose_reply])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit("mail", "send", b"hello", labels={"a": "1", "b": "2"})

    requests = broker.of("Submit")
    ages_us = [request.retry_age.ToMicroseconds() for request in requests]
    assert not requests[0].HasField("retry_age")
    assert ages_us == sorted(set(ages_us))
    for request in requests:
        request.ClearField("retry_age")
    assert {request.SerializeToString(deterministic=True) for request in requests} == {
        requests[0].SerializeToString(deterministic=True)
    }


async def test_a_claim_is_given_a_request_id_of_its_own_and_keeps_it_when_repeated() -> None:
    broker = FakeBroker(steps=[lose_reply])
    request = ClaimRequest(worker_id="w1", queues=["mail"], max_tasks=1)
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.claim(request)
        await client.claim(request)

    first, repeated, another = (claim.request_id for claim in broker.of("Claim"))
    assert first
    assert first == repeated
    assert first != another
    assert not request.request_id


async def test_a_claim_keeps_the_request_id_that_its_caller_chose() -> None:
    broker = FakeBroker(steps=[lose_reply])
    request = ClaimRequest(worker_id="w1", queues=["mail"], max_tasks=1, request_id="mine")
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.claim(request)

    assert [claim.request_id for claim in broker.of("Claim")] == ["mine", "mine"]


async def test_a_lease_counts_from_the_sending_of_the_attempt_that_was_answered() -> None:
    lost_at_s: list[float] = []

    async def lose_and_note(broker: FakeBroker, call: Call, context: Context) -> Message:
        lost_at_s.append(boottime_s())
        return await lose_reply(broker, call, context)

    broker = FakeBroker(steps=[lose_and_note])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        answer = await client.heartbeat(HeartbeatRequest(worker_id="w1"))

    assert lost_at_s[0] < answer.sent_at_s < boottime_s()


async def test_a_call_goes_on_at_the_leader_that_a_refusal_names() -> None:
    leader, follower = FakeBroker(), FakeBroker()
    async with serving(leader, follower):
        leader.leader = follower.leader = leader.address
        follower.steps.append(redirect(leader.address))
        async with AsyncClient(follower.address) as client:
            await client.submit("mail", "send")
            await client.submit("mail", "send")

    assert len(follower.of("Submit")) == 1
    assert len(leader.of("Submit")) == 2


async def test_calls_follow_the_leader_that_a_reply_names() -> None:
    old, new = FakeBroker(), FakeBroker()
    async with serving(old, new):
        old.leader, new.leader = old.address, new.address
        async with AsyncClient(old.address) as client:
            await client.submit("mail", "send")
            old.leader, old.term = new.address, 2
            new.term = 2
            await client.submit("mail", "send")
            await until_reached(client, new)
            await client.submit("mail", "send")

    assert len(old.of("Submit")) == 2
    assert len(new.of("Submit")) == 1


async def test_news_of_an_earlier_term_does_not_move_the_client() -> None:
    leader, stale = FakeBroker(term=7), FakeBroker(term=3)
    async with serving(leader, stale):
        leader.leader = leader.address
        stale.leader = stale.address
        async with AsyncClient(leader.address) as client:
            await client.submit("mail", "send")
            leader.leader, leader.term = stale.address, 3
            for _ in range(5):
                await client.submit("mail", "send")

    assert not stale.calls


async def test_a_client_that_knows_the_term_says_so() -> None:
    broker = FakeBroker(term=7)
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit("mail", "send")
        await client.submit("mail", "send")

    first, second = broker.calls
    assert "tq-min-term" not in first.metadata
    assert second.metadata["tq-min-term"] == "7"
    assert second.metadata["tq-client"].startswith("tq/")


@pytest.mark.parametrize("term", [7 + TERM_STEP_MAX + 1, 2**62, 10**4000])
async def test_a_term_that_no_broker_can_be_in_is_not_believed(term: int) -> None:
    broker = FakeBroker(term=7)
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit("mail", "send")
        broker.term = term
        await client.submit("mail", "send")
        broker.term = 8
        await client.submit("mail", "send")
        await client.submit("mail", "send")

    named = [call.metadata.get("tq-min-term") for call in broker.calls]
    assert named == [None, "7", "7", "8"]


async def test_a_client_that_was_lied_to_first_comes_back_to_the_term_of_the_others() -> None:
    broker = FakeBroker(term=2**61)
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit("mail", "send")
        broker.term = 8
        await client.submit("mail", "send")
        await client.submit("mail", "send")

    assert broker.calls[-1].metadata["tq-min-term"] == "8"


async def test_a_broker_that_is_down_is_passed_over(dead_address: str) -> None:
    broker = FakeBroker()
    async with serving(broker) as address, AsyncClient([dead_address, address]) as client:
        for _ in range(10):
            await client.submit("mail", "send")

    assert len(broker.of("Submit")) == 10


async def test_a_leader_out_of_the_clients_reach_is_reached_through_another_broker(
    dead_address: str,
) -> None:
    broker = FakeBroker(leader=dead_address)
    async with serving(broker) as address, AsyncClient(address) as client:
        for _ in range(10):
            await client.submit("mail", "send")

    assert len(broker.of("Submit")) == 10


async def test_a_broker_that_is_connected_is_asked_while_the_leader_is_not() -> None:
    broker = FakeBroker()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with serving(broker) as address:
            loop = asyncio.get_running_loop()
            connections = Connections([address], loop.time, random.Random(1))
            connected = connections.pick()
            assert await connected.connect(timeout_s=10)

            connections.learn(f"127.0.0.1:{mute.getsockname()[1]}", term=1)

            assert connections.pick() is connected
            await connections.close()


async def test_a_silent_broker_is_left_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "ATTEMPT_FIRST_S", 0.1)
    silent, well = FakeBroker(), FakeBroker()
    async with serving(silent, well):
        silent.leader = well.leader = silent.address
        async with AsyncClient([silent.address, well.address]) as client:
            await until_reached(client, silent)
            silent.steps.extend([hang] * 10)
            task_id = await client.submit("mail", "send")

    hung = silent.of("Submit")[-1]
    assert well.submits[hung.request_id].results[0].task.task_id == task_id


@pytest.mark.parametrize("reason", [Reason.NO_LEADER, Reason.OUTCOME_UNKNOWN])
async def test_a_leader_that_another_broker_had_no_answer_from_is_not_asked(
    reason: Reason,
) -> None:
    silent, follower = FakeBroker(), FakeBroker()
    async with serving(silent, follower):
        follower.leader = silent.address
        follower.steps.append(refuse(reason, grpc.StatusCode.UNAVAILABLE))
        async with AsyncClient(follower.address) as client:
            await client.submit("mail", "send")

    assert len(follower.of("Submit")) == 2
    assert not silent.calls


async def test_a_broker_that_answers_without_a_leader_is_asked_twice_before_another() -> None:
    brokers = [FakeBroker(), FakeBroker()]
    asked: list[FakeBroker] = []
    no_leader = refuse(Reason.NO_LEADER, grpc.StatusCode.UNAVAILABLE)

    async def note_and_refuse(broker: FakeBroker, call: Call, context: Context) -> Message:
        asked.append(broker)
        return await no_leader(broker, call, context)

    async with serving(*brokers) as addresses, AsyncClient(addresses) as client:
        for broker in brokers:
            broker.steps = [note_and_refuse] * 2
        await client.submit("mail", "send")

    first, second, third, fourth = asked
    assert first is second is not third
    assert third is fourth


async def test_a_known_leader_that_another_broker_had_no_answer_from_is_left() -> None:
    connections = Connections(["a:1", "b:1"], lambda: 100.0, random.Random(1))
    connections.learn("a:1", term=1)

    connections.suspect("a:1")

    assert connections.leader == ""
    assert connections.pick().address == "b:1"
    await connections.close()


async def test_a_long_poll_at_a_leader_that_fell_silent_goes_on_at_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "ATTEMPT_FIRST_S", 0.1)
    silent, heir = FakeBroker(term=1), FakeBroker(term=2)
    async with serving(silent, heir):
        silent.leader, heir.leader = silent.address, heir.address
        async with AsyncClient(silent.address) as client:
            await client.submit("mail", "send")
            silent.steps.extend([hang] * 10)
            silent.arrived.clear()
            request = ClaimRequest(worker_id="w1", queues=["mail"], max_tasks=1)
            request.wait.FromSeconds(3_600)
            poll = asyncio.create_task(client.claim(request))
            await silent.arrived.wait()

            client._caller._connections._connection(heir.address)
            await client.submit("mail", "send")
            await poll

    [lost], [repeated] = silent.of("Claim"), heir.of("Claim")
    assert lost.request_id == repeated.request_id


async def test_a_call_unsafe_to_repeat_waits_for_the_leader_that_was_asked() -> None:
    release = asyncio.Event()
    old, heir = FakeBroker(term=1), FakeBroker(term=2)
    async with serving(old, heir):
        old.leader = old.address
        async with AsyncClient(old.address) as client:
            await client.submit("mail", "send")
            old.steps.append(hold_until(release))
            old.arrived.clear()
            change = asyncio.create_task(client.configure_queue("mail", QueueSettings(paused=True)))
            await old.arrived.wait()
            old.leader, old.term = heir.address, 2
            await client.submit("mail", "send")
            release.set()
            await change

    assert len(old.of("ConfigureQueue")) == 1


async def test_calls_that_fail_together_count_against_a_broker_once() -> None:
    now_s = 100.0
    connections = Connections(["a:1", "b:1"], lambda: now_s, random.Random(1))
    broken = connections.pick()

    for _ in range(10):
        connections.failed(broken)
    assert connections.pick() is not broken

    connections.failed(connections.pick())
    now_s += QUIET_FIRST_S
    assert connections.pick() is broken
    await connections.close()


async def test_a_large_request_is_given_the_time_it_takes_to_send() -> None:
    left_s: list[float] = []

    async def note(broker: FakeBroker, call: Call, context: Context) -> Message:
        left_s.append(context.time_remaining())
        return await broker.answer(call, context)

    broker = FakeBroker(steps=[note])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit("mail", "send", bytes(3 << 20))

    assert left_s[0] > 2


async def test_the_brokers_advice_when_to_retry_is_followed() -> None:
    busy = refuse(Reason.OVERLOADED, grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=0.2)
    broker = FakeBroker(steps=[busy])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.submit("mail", "send")

    _, repeated = broker.of("Submit")
    assert repeated.retry_age.ToMilliseconds() >= 200


async def test_advice_to_retry_after_the_deadline_is_an_error_at_once() -> None:
    busy = refuse(Reason.OVERLOADED, grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=3_600)
    broker = FakeBroker(steps=[busy])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(BusyError) as caught:
            await client.submit("mail", "send")

    assert caught.value.reason is Reason.OVERLOADED
    assert caught.value.retry_after_s == 3_600
    assert len(broker.calls) == 1


async def test_a_refusal_that_a_retry_cannot_help_is_not_repeated() -> None:
    too_large = refuse(
        Reason.PAYLOAD_TOO_LARGE, grpc.StatusCode.INVALID_ARGUMENT, limit="10", actual="11"
    )
    broker = FakeBroker(steps=[too_large])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(InvalidArgumentError) as caught:
            await client.submit("mail", "send")

    assert caught.value.reason is Reason.PAYLOAD_TOO_LARGE
    assert caught.value.metadata == {"limit": "10", "actual": "11"}
    assert len(broker.calls) == 1


async def test_a_fault_of_the_broker_is_not_repeated() -> None:
    fault = refuse(Reason.INTERNAL, grpc.StatusCode.INTERNAL)
    broker = FakeBroker(steps=[fault])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(InternalError):
            await client.submit("mail", "send")

    assert len(broker.calls) == 1


async def test_a_call_unsafe_to_repeat_is_made_once_where_it_may_have_been_applied() -> None:
    broker = FakeBroker(steps=[lose_reply])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.configure_queue("mail", QueueSettings(paused=True))

    assert len(broker.calls) == 1


async def test_a_call_unsafe_to_repeat_is_repeated_while_it_was_not_applied() -> None:
    no_leader = refuse(Reason.NO_LEADER, grpc.StatusCode.UNAVAILABLE)
    broker = FakeBroker(steps=[no_leader])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        await client.configure_queue("mail", QueueSettings(paused=True))

    assert len(broker.calls) == 2


async def test_with_no_broker_in_reach_a_call_fails_as_not_applied(dead_address: str) -> None:
    async with AsyncClient(dead_address, timeout_s=0.3) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.submit("mail", "send")

    assert caught.value.reason is Reason.NO_LEADER
    assert dead_address in str(caught.value)


async def test_a_write_whose_every_reply_is_lost_is_of_unknown_outcome_and_names_its_id() -> None:
    broker = FakeBroker(steps=[lose_reply] * 100)
    async with serving(broker) as addresses, AsyncClient(addresses, timeout_s=0.3) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.cancel("t1")

    requests = broker.of("CancelTask")
    assert {request.request_id for request in requests} == {caught.value.metadata["request_id"]}


async def test_a_read_whose_every_reply_is_lost_fails_as_unavailable() -> None:
    broker = FakeBroker(steps=[lose_reply] * 100)
    async with serving(broker) as addresses, AsyncClient(addresses, timeout_s=0.3) as client:
        with pytest.raises(UnavailableError):
            await client.get("t1")


async def test_the_callers_deadline_travels_with_every_attempt() -> None:
    left_s: list[float] = []

    async def note_and_lose(broker: FakeBroker, call: Call, context: Context) -> Message:
        left_s.append(context.time_remaining())
        return await lose_reply(broker, call, context)

    broker = FakeBroker(steps=[note_and_lose] * 100)
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.cancel("t1", timeout_s=0.5)

    # gRPC rounds up on the wire.
    assert max(left_s) <= 0.6
    assert left_s[-1] < left_s[0]
