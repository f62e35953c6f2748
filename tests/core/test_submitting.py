"""Submitting tasks."""

from __future__ import annotations

import pytest

from tests.core.lone_queue import LoneQueue, at, reason, replied, spec
from tq.v1 import errors_pb2, task_pb2, task_service_pb2
from tq_cluster.core.model.ids import derived_id
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.core.model.operations import Caller, Refused, Submit

Request = task_service_pb2.SubmitRequest
Response = task_service_pb2.SubmitResponse


def test_a_submitted_task_can_be_read_as_it_was_sent() -> None:
    queue = LoneQueue()
    sent = spec(
        task_id="resize-1",
        payload=b"picture",
        content_type="image/png",
        priority=7,
        labels={"customer": "a", "batch": "b"},
        traceparent="00-trace-01",
    )

    queue.submitted(sent)

    task = queue.task("resize-1")
    assert task.spec == sent
    assert queue.state("resize-1") == "PENDING"
    assert task.submitted_at == task.due_at == at(0)
    assert not task.HasField("finished_at")


def test_a_task_without_a_trace_takes_that_of_the_call_that_brings_it() -> None:
    of_call = "00-11111111111111111111111111111111-2222222222222222-01"
    queue = LoneQueue()

    bare, own = spec(task_id="bare"), spec(task_id="own", traceparent="mine")
    queue.submit(bare, own, caller=Caller(namespace=0, traceparent=of_call))

    assert queue.task("bare").spec.traceparent == of_call
    assert queue.task("own").spec.traceparent == "mine"


def test_a_header_that_is_no_trace_context_is_not_kept() -> None:
    queue = LoneQueue()

    queue.submit(spec(task_id="bare"), caller=Caller(namespace=0, traceparent="00-ab" * 100))

    assert queue.task("bare").spec.traceparent == ""


def test_unnamed_tasks_get_ids_that_their_submitter_can_work_out() -> None:
    queue = LoneQueue()

    ids = queue.submitted(spec(), spec(task_id="mine"), spec(), request_id="0191-call")

    assert ids == ["0191-call-0", "mine", "0191-call-2"]


def test_a_request_id_that_no_task_id_may_contain_stands_in_derived_ids_as_its_digest() -> None:
    queue = LoneQueue()

    (task_id,) = queue.submitted(spec(), request_id="caf\u00e9 / 7")

    assert task_id == derived_id("caf\u00e9 / 7", 0)
    assert queue.exists(task_id)


def test_an_id_that_is_taken_is_refused_and_the_other_tasks_stand() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="one", payload=b"first"))

    reply = replied(
        queue.submit(spec(task_id="one", payload=b"second"), spec(task_id="two")), Response
    )

    assert reply.results[0].error.reason == errors_pb2.ERROR_REASON_TASK_EXISTS
    assert reply.results[1].task.task_id == "two"
    assert queue.task("one").spec.payload == b"first"


def test_of_two_tasks_of_one_id_in_a_call_the_first_is_created() -> None:
    queue = LoneQueue()

    reply = replied(queue.submit(spec(task_id="one"), spec(task_id="one")), Response)

    assert reply.results[0].HasField("task")
    assert reply.results[1].error.reason == errors_pb2.ERROR_REASON_TASK_EXISTS
    assert queue.stats().pending == 1


def keeping(task_id: str, **fields: object) -> task_pb2.TaskSpec:
    return spec(task_id=task_id, if_exists=task_pb2.IF_EXISTS_KEEP, **fields)


def test_a_task_that_keeps_what_is_there_creates_nothing_beside_it() -> None:
    queue = LoneQueue()
    queue.submitted(spec(task_id="mine", payload=b"first"))
    queue.claimed()

    sent = (keeping("mine", payload=b"second"), keeping("new"), keeping("new"))
    reply = replied(queue.submit(*sent, request_id="r"), Response)

    told = [(each.task.task_id, each.task.existed, each.task.state) for each in reply.results]
    running, pending = task_pb2.TASK_STATE_RUNNING, task_pb2.TASK_STATE_PENDING
    assert told == [("mine", True, running), ("new", False, pending), ("new", True, pending)]
    assert queue.task("mine").spec.payload == b"first"
    assert replied(queue.submit(*sent, request_id="r"), Response) == reply
    assert not queue.changed_by(Submit(request=Request(tasks=sent), id_seed="s"))
    again = replied(queue.submit(*sent, request_id="all-kept"), Response)
    queue.cancel("new")
    repeated = replied(queue.submit(*sent, request_id="all-kept"), Response)
    assert [each.task.existed for each in repeated.results] == [True] * 3
    assert [each.task.existed for each in again.results] == [True] * 3


@pytest.mark.parametrize(
    "wrong", [spec(if_exists=task_pb2.IF_EXISTS_KEEP), spec(task_id="a", if_exists=7)]
)
def test_to_keep_a_task_takes_an_id_and_a_word_that_there_is(wrong: task_pb2.TaskSpec) -> None:
    (result,) = replied(LoneQueue().submit(wrong), Response).results

    assert result.error.reason == errors_pb2.ERROR_REASON_INVALID_ARGUMENT
    assert result.error.field == "if_exists"


@pytest.mark.parametrize(
    "payload_bytes", [0, 1, 4096, 4097, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 10 << 20]
)
def test_a_payload_of_any_size_up_to_the_limit_comes_back_whole(payload_bytes: int) -> None:
    queue = LoneQueue()
    payload = bytes(range(256)) * (payload_bytes // 256) + bytes(payload_bytes % 256)

    queue.submitted(spec(task_id="one", payload=payload))

    assert queue.task("one").spec.payload == payload
    assert queue.claimed()[0].spec.payload == payload


def test_one_submit_carries_so_much_in_all_and_is_refused_whole_beyond() -> None:
    queue = LoneQueue()
    limit = DEFAULT_LIMITS.submit_bytes_max
    third = spec(payload=bytes(limit // 3))

    assert queue.submitted(third, third, third, request_id="all")
    refused = queue.submit(third, third, third, spec(payload=b"abc"), request_id="more")

    assert isinstance(refused, Refused)
    assert refused.reason == errors_pb2.ERROR_REASON_PAYLOAD_TOO_LARGE
    assert refused.field == "tasks"
    assert refused.metadata["limit"] == str(limit)
    assert refused.metadata["actual"] == str(limit // 3 * 3 + 3)
    assert len(queue.entries) == 1


def test_a_payload_that_is_too_large_by_itself_takes_no_room_of_the_others() -> None:
    queue = LoneQueue()
    limit = DEFAULT_LIMITS.payload_bytes_max

    reply = replied(queue.submit(spec(payload=bytes(limit + 1)), spec(payload=b"x")), Response)

    assert [each.HasField("task") for each in reply.results] == [False, True]


def test_a_payload_over_the_limit_is_refused_naming_limit_and_size() -> None:
    queue = LoneQueue()
    limit = DEFAULT_LIMITS.payload_bytes_max

    reply = replied(queue.submit(spec(payload=bytes(limit + 1))), Response)

    error = reply.results[0].error
    assert error.reason == errors_pb2.ERROR_REASON_PAYLOAD_TOO_LARGE
    assert error.metadata["limit"] == str(limit)
    assert error.metadata["actual"] == str(limit + 1)
    assert len(queue.entries) == 0


def test_a_call_without_tasks_or_with_too_many_is_refused_whole() -> None:
    queue = LoneQueue()

    assert reason(queue.submit()) == "INVALID_ARGUMENT"
    assert reason(queue.submit(*[spec()] * 1_001)) == "INVALID_ARGUMENT"
    assert len(queue.entries) == 0


def test_a_call_of_which_every_task_is_refused_changes_nothing() -> None:
    queue = LoneQueue()

    queue.submit(spec(queue="new queue!"), spec(priority=256))

    assert len(queue.entries) == 0


def test_a_request_is_left_as_the_caller_sent_it() -> None:
    queue = LoneQueue()
    sent = spec(payload=bytes(100_000))
    copy = spec(payload=bytes(100_000))

    queue.submitted(sent)

    assert sent == copy
