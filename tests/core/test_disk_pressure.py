"""What is refused, and what is not, while the disks are nearly full."""

from __future__ import annotations

from tests.core.lone_queue import LoneQueue, reason, replied, spec, status
from tq.v1 import task_pb2, task_service_pb2
from tq_cluster.core.model.operations import Outcome, Refused, Submit


def submit_under_pressure(queue: LoneQueue, *specs: task_pb2.TaskSpec, request_id: str) -> Outcome:
    request = task_service_pb2.SubmitRequest(request_id=request_id, tasks=specs)
    return queue.outcome(Submit(request=request, id_seed=request_id, disk_pressure=True))


def test_a_new_task_is_refused_while_the_disks_are_nearly_full() -> None:
    queue = LoneQueue()
    queue.submitted(spec())
    entries = len(queue.entries)

    outcome = submit_under_pressure(queue, spec(), request_id="r")

    assert reason(outcome) == "DISK_PRESSURE"
    assert isinstance(outcome, Refused)
    assert outcome.retry_after_ms == 10_000
    assert len(queue.entries) == entries
    assert queue.submitted(spec(), request_id="r"), "once there is room the same call is taken"


def test_a_submit_that_was_acknowledged_is_answered_again_while_the_disks_are_nearly_full() -> None:
    queue = LoneQueue()
    first = replied(queue.submit(spec(), request_id="r"), task_service_pb2.SubmitResponse)

    again = submit_under_pressure(queue, spec(), request_id="r")

    assert replied(again, task_service_pb2.SubmitResponse) == first


def test_a_completion_is_taken_with_the_tasks_it_submits() -> None:
    queue = LoneQueue()
    queue.submitted(spec())
    [task] = queue.claimed()
    submit_under_pressure(queue, spec(), request_id="r")

    assert status(queue.complete(task, submit=[spec(task_id="next")])) == "RECORDED"
    assert queue.state("next") == "PENDING"
