"""The demo fails when a promise does not hold: each line is shown the evidence that breaks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chaos.history.outages import Outage
from demo.proof import Evidence, lines
from demo.trace import Request, Trace
from tq.v1 import task_pb2
from tq_client import Task, TaskState

DONE = task_pb2.Attempt.END_COMPLETED
COMPLETED = TaskState.COMPLETED


def finished(task_id: str, result: bytes, *ends: task_pb2.Attempt.End.ValueType) -> Task:
    task = task_pb2.Task(
        state=task_pb2.TASK_STATE_COMPLETED, result=result, attempts_made=len(ends)
    )
    task.spec.task_id = task_id
    for token, end in enumerate(ends, start=1):
        task.attempts.add(token=token, end=end)
    return Task.of(task)


def sound() -> Evidence:
    """Two requests, one killed leader, one stale report: all as it should be."""
    requests = (Request(0, 0.0, 10, 1), Request(1, 1.0, 20, 2))
    return Evidence(
        trace=Trace(Path("trace.csv"), False, datetime(2023, 11, 16, tzinfo=UTC), requests),
        acknowledged={"a": 0, "b": 1},
        listed={"a": COMPLETED, "b": COMPLETED},
        finished={"a": finished("a", b"0", DONE), "b": finished("b", b"1", DONE)},
        expected={0: b"0", 1: b"1"},
        runs=Counter(a=1, b=1),
        failures=(),
        probe_acknowledged=frozenset({"p"}),
        probe_listed=frozenset({"p", "q"}),
        outages=(Outage(1.0, 1.1),),
        kills=1,
        stale_sent=1,
        stale_refused=1,
        stale_kept=1,
        checker_calls=9,
        violations=(),
    )


def broken(evidence: Evidence) -> list[str]:
    return [line.name for line in lines(evidence) if line.holds is False]


def test_sound_evidence_proves_everything() -> None:
    assert broken(sound()) == []


def a_request_not_submitted(evidence: Evidence) -> Evidence:
    return replace(evidence, acknowledged={"a": 0})


def a_task_not_finished(evidence: Evidence) -> Evidence:
    return replace(evidence, finished={"a": evidence.finished["a"]})


def another_result(evidence: Evidence) -> Evidence:
    return replace(evidence, expected={0: b"0", 1: b"other"})


def a_second_completion(evidence: Evidence) -> Evidence:
    twice = finished("b", b"1", DONE, DONE)
    return replace(evidence, finished={**evidence.finished, "b": twice})


def a_task_that_nobody_was_told_of(evidence: Evidence) -> Evidence:
    return replace(evidence, listed={**evidence.listed, "c": COMPLETED})


def a_task_that_is_not_listed(evidence: Evidence) -> Evidence:
    return replace(evidence, listed={"a": COMPLETED})


def a_probe_write_that_is_not_listed(evidence: Evidence) -> Evidence:
    return replace(evidence, probe_listed=frozenset({"q"}))


def a_stale_report_accepted(evidence: Evidence) -> Evidence:
    return replace(evidence, stale_refused=0)


def no_stale_report_at_all(evidence: Evidence) -> Evidence:
    return replace(evidence, stale_sent=0, stale_refused=0, stale_kept=0)


def a_leader_not_killed(evidence: Evidence) -> Evidence:
    return replace(evidence, outages=())


def a_violation(evidence: Evidence) -> Evidence:
    return replace(evidence, violations=["I1: lost"])


def a_call_given_up(evidence: Evidence) -> Evidence:
    return replace(evidence, failures=["request 7 was not submitted"])


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (a_request_not_submitted, "submitted"),
        (a_task_not_finished, "completed"),
        (another_result, "results equal to a local recomputation"),
        (a_second_completion, "tasks completed twice"),
        (a_task_that_nobody_was_told_of, "tasks created twice"),
        (a_task_that_is_not_listed, "lost"),
        (a_probe_write_that_is_not_listed, "lost"),
        (a_stale_report_accepted, "stale reports refused"),
        (no_stale_report_at_all, "stale reports refused"),
        (a_leader_not_killed, "leaders killed"),
        (a_violation, "calls of the probe judged"),
        (a_call_given_up, "calls given up"),
    ],
)
def test_evidence_that_breaks_a_promise_fails_its_line(
    damage: Callable[[Evidence], Evidence], line: str
) -> None:
    assert line in broken(damage(sound()))
