"""A conversation: each call is what it is by itself, and the stream is bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.rpc import error_details_pb2, status_pb2

from tests.patience import PATIENCE_S
from tests.service.fakes import Cluster, Node, cluster_of, stubs_of, until
from tests.service.test_turn_limit import Turns
from tq.internal.v1 import conversation_pb2 as raw
from tq.v1 import conversation_service_pb2 as pb
from tq.v1 import errors_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq.v1.conversation_service_pb2_grpc import ConversationServiceStub
from tq_client import methods
from tq_client.calls import Method as ClientMethod
from tq_cluster.core.model.operations import Outcome, Refused, Replied
from tq_cluster.service import conversations, errors, pacing
from tq_cluster.service.call import Header
from tq_cluster.service.errors import DETAILS_KEY
from tq_cluster.service.policy import Verb
from tq_cluster.service.routing import Answered
from tq_cluster.service.service import Service

SUBMIT = task_service_pb2.SubmitRequest(
    tasks=[task_pb2.TaskSpec(queue="mail", type="send")], request_id="r1"
)
CLAIM = worker_service_pb2.ClaimRequest(worker_id="w", queues=["mail"], max_tasks=1)
CLAIM.wait.FromSeconds(20)


async def forever() -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


async def refused() -> Outcome:
    return Refused(
        reason=errors_pb2.ERROR_REASON_NOT_FOUND, message="no such task", field="task_id"
    )


async def wordy() -> Outcome:
    return Refused(reason=errors_pb2.ERROR_REASON_NOT_FOUND, message="x" * 900)


class Talk:
    """A conversation, from the caller's side."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401  # gRPC's types of streams are generic
        self.stream = stream

    async def say(self, *calls: pb.ConverseCall) -> None:
        await self.stream.write(pb.ConverseRequest(calls=calls))

    async def answers(self, count: int) -> dict[int, pb.ConverseAnswer]:
        """Read until so many answers have come; by their calls' ids."""
        found: dict[int, pb.ConverseAnswer] = {}
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                message = await self.stream.read()
                assert isinstance(message, pb.ConverseResponse), message
                found |= {answer.call_id: answer for answer in message.answers}
        return found

    async def end(self) -> grpc.aio.AioRpcError | None:
        """Read to the end; the error that the stream ended with."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await self.stream.read() is not grpc.aio.EOF:
                    pass
        except grpc.aio.AioRpcError as error:
            return error
        return None


@asynccontextmanager
async def talk_with(node: Node, *metadata: tuple[str, str]) -> AsyncIterator[Talk]:
    async with stubs_of(node) as stubs:
        stub: Any = ConversationServiceStub(stubs.channel)
        stream = stub.Converse(metadata=metadata)
        yield Talk(stream)
        stream.cancel()


@asynccontextmanager
async def one_node() -> AsyncIterator[tuple[Cluster, Node]]:
    async with cluster_of("n1") as cluster:
        cluster.elect("n1", 2)
        yield cluster, cluster["n1"]


def reason_of(details: bytes) -> str:
    return str(info_of(details).reason)


def info_of(details: bytes) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    [packed, *_] = status_pb2.Status.FromString(details).details
    assert packed.Unpack(info)
    return info


def details_of(error: grpc.aio.AioRpcError | None) -> bytes:
    assert error is not None
    found = dict(error.trailing_metadata() or ())[DETAILS_KEY]
    assert isinstance(found, bytes)
    return found


def submit(call_id: int) -> pb.ConverseCall:
    return pb.ConverseCall(call_id=call_id, submit=SUBMIT)


def claim(call_id: int) -> pb.ConverseCall:
    return pb.ConverseCall(call_id=call_id, claim=CLAIM)


async def test_calls_are_answered_as_they_are_ready_each_under_its_id() -> None:
    async with one_node() as (_, node), talk_with(node) as talk:
        node.leader.answer = forever
        await talk.say(claim(7))
        await node.leader.arrived.wait()
        node.leader.answer = None
        await talk.say(
            submit(8),
            pb.ConverseCall(call_id=9, heartbeat=worker_service_pb2.HeartbeatRequest()),
            pb.ConverseCall(call_id=10, report=worker_service_pb2.ReportRequest()),
        )
        answers = await talk.answers(3)

    assert {key: each.WhichOneof("answer") for key, each in answers.items()} == {
        8: "submit",
        9: "heartbeat",
        10: "report",
    }
    assert {(each.leader, each.term) for each in answers.values()} == {(node.address, 2)}


async def test_the_calls_of_a_message_begin_a_few_in_each_turn_of_the_loop() -> None:
    async with one_node() as (_, node), talk_with(node) as talk:
        router, turns = node.service.conversations.router, Turns()
        answer_inside, began = router.answer_inside, list[int]()

        async def noted(*call: Any) -> Answered:  # noqa: ANN401  # passed on as it is
            began.append(turns.number)
            return await answer_inside(*call)

        router.answer_inside = noted  # type: ignore[method-assign,assignment]  # notes the turn on its way
        await talk.say(*map(submit, range(1, 65)))
        await talk.answers(64)
        turns.stop()

    assert len(began) == 64
    # Those that are let go in one turn begin in the next, beside those that find room in that.
    assert max(Counter(began).values()) <= 2 * conversations.CALLS_A_TURN


async def test_a_follower_forwards_each_call() -> None:
    async with cluster_of("n1", "n2") as cluster, talk_with(cluster["n2"]) as talk:
        cluster.elect("n1", 2)
        await talk.say(submit(1), claim(2))
        answers = await talk.answers(2)

    assert {each.WhichOneof("answer") for each in answers.values()} == {"submit", "claim"}
    assert len(cluster["n1"].leader.asked) == 2
    assert not cluster["n2"].leader.asked


async def test_a_call_fails_as_it_does_by_itself() -> None:
    request = task_service_pb2.CancelTaskRequest(task_id="t1", request_id="r")
    async with one_node() as (_, node), talk_with(node) as talk, stubs_of(node) as stubs:
        node.leader.answer = refused
        with pytest.raises(grpc.aio.AioRpcError) as alone:
            await stubs.tasks.CancelTask(request)
        await talk.say(pb.ConverseCall(call_id=1, cancel_task=request))
        failure = (await talk.answers(1))[1].failure

    assert failure.details == details_of(alone.value)
    assert failure.message == alone.value.details()
    assert failure.code == alone.value.code().value[0]


async def test_a_calls_own_deadline_trace_and_term_count() -> None:
    async with one_node() as (_, node), talk_with(node) as talk:
        call = claim(1)
        call.timeout.FromMilliseconds(2_000)
        call.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        ahead = submit(2)
        ahead.min_term = 2**40
        await talk.say(call, ahead)
        answers = await talk.answers(2)

    assert answers[1].WhichOneof("answer") == "claim"
    assert 1.0 < node.leader.waits_s[0] < 2.0
    [asked] = node.leader.asked
    assert asked.caller.traceparent == call.traceparent
    assert reason_of(answers[2].failure.details) == "NO_LEADER"


async def test_a_call_that_is_given_up_is_over_at_the_leader_and_has_no_answer() -> None:
    async with one_node() as (_, node), talk_with(node) as talk:
        node.leader.answer = forever
        await talk.say(claim(1))
        await node.leader.arrived.wait()
        await talk.say(pb.ConverseCall(call_id=1, cancel=True))
        await until(lambda: node.leader.cancelled == 1, "the claim is over")
        node.leader.answer = None
        await talk.say(pb.ConverseCall(call_id=5, cancel=True), submit(1))

        assert (await talk.answers(1)).keys() == {1}
        await until(lambda: node.service.calls == 1, "all but the conversation is over")


async def test_calls_of_a_caller_that_has_gone_are_over_and_nothing_is_held_for_it() -> None:
    async with one_node() as (_, node):
        node.leader.answer = forever
        async with talk_with(node) as talk:
            await talk.say(*(claim(number) for number in range(1, 21)))
            await until(lambda: len(node.leader.asked) == 20, "they wait")
            assert node.service.calls == 20 + 1
            assert node.service.conversations.open == 1
        await until(lambda: node.leader.cancelled == 20, "they are over")
        await until(lambda: node.service.conversations.open == 0, "the conversation is, too")
        await until(lambda: node.service.calls == 0, "nothing is held")


async def test_a_caller_that_says_no_more_is_answered_before_the_end() -> None:
    async with one_node() as (_, node), talk_with(node) as talk:
        release = asyncio.Event()

        async def later() -> Outcome:
            await release.wait()
            return await refused()

        node.leader.answer = later
        await talk.say(submit(1))
        await talk.stream.done_writing()
        await node.leader.arrived.wait()
        release.set()
        assert (await talk.answers(1)).keys() == {1}
        assert await talk.end() is None


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        pytest.param(
            pb.ConverseRequest(calls=[submit(number) for number in range(65)]),
            "INVALID_ARGUMENT",
            "calls",
            id="too many calls in a message",
        ),
        pytest.param(
            pb.ConverseRequest(
                calls=[pb.ConverseCall(call_id=1, traceparent="x" * 262_144)],
            ),
            "PAYLOAD_TOO_LARGE",
            "",
            id="too large a message",
        ),
        pytest.param(
            pb.ConverseRequest(calls=[claim(3), claim(3)]),
            "INVALID_ARGUMENT",
            "calls.call_id",
            id="two calls with one id",
        ),
    ],
)
async def test_a_message_that_no_caller_should_send_ends_the_conversation_in_words(
    message: pb.ConverseRequest, reason: str, field: str
) -> None:
    async with one_node() as (_, node), talk_with(node) as talk:
        node.leader.answer = forever
        await talk.stream.write(message)
        told = info_of(details_of(await talk.end()))
        await until(lambda: node.service.calls == 0, "nothing is held")

    assert (told.reason, told.metadata["field"] if field else "") == (reason, field)


async def test_a_field_that_the_broker_does_not_know_ends_the_conversation() -> None:
    newer = pb.ConverseRequest(calls=[pb.ConverseCall(call_id=1)]).SerializeToString()
    newer = b"\x0a" + bytes([len(newer) + 1]) + newer[2:] + b"\xf8\x06\x01"  # field 111
    async with one_node() as (_, node), stubs_of(node) as stubs:
        converse: Any = stubs.channel.stream_stream("/tq.v1.ConversationService/Converse")
        talk = Talk(converse())
        await talk.stream.write(newer)
        error = await talk.end()

    assert error is not None
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert reason_of(details_of(error)) == "UNSUPPORTED"
    assert not node.leader.asked


async def test_a_call_without_a_request_is_refused_alone() -> None:
    async with one_node() as (_, node), talk_with(node) as talk:
        await talk.say(pb.ConverseCall(call_id=1), submit(2))
        answers = await talk.answers(2)

    assert info_of(answers[1].failure.details).metadata["field"] == "calls.request"
    assert answers[2].WhichOneof("answer") == "submit"


async def test_one_call_too_many_at_a_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "CALLS_MAX", 3)
    async with one_node() as (_, node), talk_with(node) as talk:
        node.leader.answer = forever
        await talk.say(*map(claim, range(1, 5)))
        answers = await talk.answers(1)

    assert answers.keys() == {4}
    told = info_of(answers[4].failure.details)
    assert told.reason == "OVERLOADED"
    assert dict(told.metadata) == {"limit": "3", "limit_name": "conversation_calls"}


async def test_a_node_forwards_no_conversation() -> None:
    async with one_node() as (_, node), talk_with(node, (Header.HOP, "n2")) as talk:
        assert reason_of(details_of(await talk.end())) == "UNAUTHENTICATED"


async def test_one_conversation_too_many_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversations, "CONVERSATIONS_MAX", 2)
    async with one_node() as (_, node), talk_with(node) as first:
        await first.say(submit(1))
        await first.answers(1)
        async with talk_with(node) as second:
            told = info_of(details_of(await second.end()))
        await first.say(submit(2))
        await first.answers(1)

    assert told.reason == "OVERLOADED"
    assert told.metadata["limit_name"] == "conversations"


async def test_a_node_short_of_memory_holds_no_conversation() -> None:
    held = 100 << 20
    async with node_that(lambda parts: replace(parts, held_bytes=lambda: held)) as node:
        node.leader.answer = forever
        async with talk_with(node) as talk:
            await talk.say(claim(1))
            await node.leader.arrived.wait()
            held = conversations.HELD_BYTES_MAX + 1
            ended = await talk.end()
        assert reason_of(details_of(ended)) == "OUTCOME_UNKNOWN"
        await until(lambda: node.service.calls == 0, "nothing is held")
        async with talk_with(node) as talk:
            told = info_of(details_of(await talk.end()))
        assert told.metadata["limit_name"] == "conversations"

        held = conversations.HELD_BYTES_AGAIN - 1
        node.leader.answer = None
        await until(lambda: not node.service.conversations._short, "there is memory again")
        async with talk_with(node) as talk:
            await talk.say(submit(1))
            await talk.answers(1)


async def test_memory_that_grows_is_looked_at_again_before_the_next_beat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beats = iter([0.0])
    monkeypatch.setattr(
        conversations, "next_beat_s", lambda now_s: now_s + next(beats, 10 * PATIENCE_S)
    )
    before = 50 << 20
    held = iter([before, before + conversations.GROWTH_BYTES + 1])
    short = conversations.HELD_BYTES_MAX + 1
    async with node_that(
        lambda parts: replace(parts, held_bytes=lambda: next(held, short))
    ) as node:
        node.leader.answer = forever
        async with talk_with(node) as talk:
            await talk.say(claim(1))
            assert reason_of(details_of(await talk.end())) == "OUTCOME_UNKNOWN"


async def test_a_node_that_stops_answers_its_calls_and_ends_idle_conversations_at_once() -> None:
    async with one_node() as (_, node), talk_with(node) as idle, talk_with(node) as busy:
        release = asyncio.Event()

        async def later() -> Outcome:
            await release.wait()
            return await refused()

        await idle.say(submit(1))
        await idle.answers(1)
        node.leader.answer = later
        await busy.say(submit(1))
        await until(lambda: len(node.leader.asked) == 2, "it waits")
        stopping = asyncio.create_task(node.service.stop())

        assert await idle.end() is None
        await busy.say(submit(2))
        answers = await busy.answers(1)
        assert reason_of(answers[2].failure.details) == "NO_LEADER"
        release.set()
        answers = await busy.answers(1)
        assert reason_of(answers[1].failure.details) == "NOT_FOUND"
        assert await busy.end() is None
        await stopping


async def test_an_old_conversation_ends_once_its_calls_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversations, "AGE_S", 0.05)
    async with one_node() as (_, node), talk_with(node) as talk:
        release = asyncio.Event()

        async def later() -> Outcome:
            await release.wait()
            return await refused()

        node.leader.answer = later
        await talk.say(submit(1))
        await asyncio.sleep(0.1)
        release.set()

        assert (await talk.answers(1)).keys() == {1}
        assert await talk.end() is None


async def test_an_old_conversation_whose_calls_do_not_end_is_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversations, "AGE_S", 0.05)
    monkeypatch.setattr(conversations, "LAST_CALLS_S", 0.05)
    async with one_node() as (_, node), talk_with(node) as talk:
        node.leader.answer = forever
        await talk.say(claim(1))

        assert await talk.end() is None
        await until(lambda: node.service.calls == 0, "nothing is held")


@pytest.mark.parametrize("calls_max", [20, 100_000])
async def test_a_caller_that_does_not_read_is_cut_off_and_holds_nothing(
    calls_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "STALLED_S", 0.2)
    monkeypatch.setattr(conversations, "CUT_AFTER_S", 0.1)
    monkeypatch.setattr(conversations, "CALLS_MAX", calls_max)
    async with one_node() as (_, node), talk_with(node) as talk:
        node.leader.answer = wordy

        async def call_on() -> None:
            for number in range(1, 100_000):
                await talk.say(submit(number))

        calling = asyncio.create_task(call_on())
        await node.leader.arrived.wait()
        await until(lambda: node.service.conversations.open == 0, "it is cut off")
        assert node.service.calls == 0
        await asyncio.gather(calling, return_exceptions=True)


async def test_a_caller_that_reads_nothing_of_its_first_answer_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pacing, "STALLED_S", 0.2)
    monkeypatch.setattr(conversations, "CUT_AFTER_S", 0.1)
    async with one_node() as (_, node), talk_with(node) as talk:
        reply = task_service_pb2.GetTaskResponse(
            task=task_pb2.Task(spec=task_pb2.TaskSpec(payload=bytes(8 << 20)))
        )

        async def large() -> Outcome:
            return Replied(reply=reply)

        node.leader.answer = large
        await talk.say(claim(1))
        await until(lambda: node.service.admission.reply_bytes > 0, "it is answered")
        await until(lambda: node.service.conversations.open == 0, "it is cut off")
        assert (node.service.calls, node.service.admission.reply_bytes) == (0, 0)


async def test_a_call_and_its_cancel_in_one_message_leave_nothing() -> None:
    async with one_node() as (_, node), talk_with(node) as talk:
        node.leader.answer = forever
        cancel = pb.ConverseCall(call_id=1, cancel=True)
        await talk.say(*[claim(1), cancel] * 32)
        await talk.say(*[claim(1), cancel] * 32)
        node.leader.answer = None
        await talk.say(submit(1))
        assert (await talk.answers(1)).keys() == {1}
        await until(lambda: node.service.calls == 1, "all but the conversation is over")
        await talk.stream.done_writing()
        assert await talk.end() is None


async def test_a_trace_that_is_none_is_passed_on_to_nobody() -> None:
    async with one_node() as (_, node), talk_with(node) as talk:
        call = claim(1)
        call.traceparent = "00-x\nevil: header"
        await talk.say(call)
        await talk.answers(1)

    assert node.leader.asked[0].caller.traceparent == ""


async def test_who_may_not_converse_is_told_before_anything_is_read() -> None:
    def nobody(_principal: str, verb: Verb, _namespace: int, _queue: str) -> None:
        raise errors.refusal(
            Refused(reason=errors_pb2.ERROR_REASON_PERMISSION_DENIED, message=f"no {verb}")
        )

    async with cluster_of("n1", authorize=nobody) as cluster, talk_with(cluster["n1"]) as talk:
        cluster.elect("n1", 2)
        assert reason_of(details_of(await talk.end())) == "PERMISSION_DENIED"
        assert cluster["n1"].service.conversations.open == 0


@asynccontextmanager
async def node_that(change: Callable[[Any], Any]) -> AsyncIterator[Node]:
    """A node that leads, with changed parts."""
    async with cluster_of() as _:
        node = Node("n1", {}, ["n1"])
        node.service = Service(change(node.parts))
        node.address = f"127.0.0.1:{node.service.bind('127.0.0.1:0')}"
        node.service.bind_for_nodes("127.0.0.1:0")
        await node.service.start()
        node.log.hear_of("n1", 2)
        try:
            yield node
        finally:
            await node.service.stop()


def shape(message: Descriptor) -> dict[int, tuple[str, object]]:
    """A message's fields as they are on the wire; a message inside is bytes."""
    inside = {FieldDescriptor.TYPE_MESSAGE: FieldDescriptor.TYPE_BYTES}
    return {
        each.number: (each.name, (inside.get(each.type, each.type), each.is_repeated))
        for each in message.fields
    }


@pytest.mark.parametrize(
    ("public", "internal"),
    [
        (pb.ConverseRequest, raw.RawCalls),
        (pb.ConverseCall, raw.RawCall),
        (pb.ConverseResponse, raw.RawAnswers),
        (pb.ConverseAnswer, raw.RawAnswer),
    ],
)
def test_the_raw_messages_are_those_of_the_api(public: Any, internal: Any) -> None:  # noqa: ANN401
    assert shape(public.DESCRIPTOR) == shape(internal.DESCRIPTOR)


async def test_every_call_that_a_conversation_carries_is_a_method_of_the_node_and_the_client() -> (
    None
):
    fields = pb.ConverseCall.DESCRIPTOR.oneofs_by_name["request"].fields
    kinds = {field.name for field in fields} - {"cancel"}
    client = {each.kind for each in vars(methods).values() if isinstance(each, ClientMethod)}
    async with one_node() as (_, node):
        carried = node.service.conversations.carried

    assert carried.keys() == kinds == client - {""}
    for field in fields:
        if field.name != "cancel":
            assert carried[field.name][0].request.DESCRIPTOR is field.message_type
