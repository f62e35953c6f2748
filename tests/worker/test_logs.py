"""What a log record says of its attempt, for programs with a format of their own."""

from __future__ import annotations

import logging

from tq.v1.worker_service_pb2 import ClaimedTask
from tq_worker import TaskContext, TaskLogFilter
from tq_worker.api.context import RUNNING


def record(**facts: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": "seen", **facts})


def test_a_record_has_its_attempts_facts_and_outside_one_empty_ones() -> None:
    claimed = ClaimedTask(attempt=3)
    claimed.spec.task_id, claimed.spec.queue, claimed.spec.type = "t1", "q", "resize"
    claimed.spec.traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    within, outside, own = record(), record(), record(task_id="mine")

    TaskLogFilter().filter(outside)
    token = RUNNING.set(TaskContext(claimed, 0.0))
    TaskLogFilter().filter(within)
    TaskLogFilter().filter(own)
    RUNNING.reset(token)

    names = ("task_id", "task_type", "queue", "attempt", "trace_id")
    assert [vars(within)[name] for name in names] == ["t1", "resize", "q", 3, "a" * 32]
    assert [vars(outside)[name] for name in names] == [""] * 5
    assert (vars(own)["task_id"], vars(own)["queue"]) == ("mine", "q")
