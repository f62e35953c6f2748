"""Log lines of brokers and workers: the same formats, with the keys of each."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from tq.v1.worker_service_pb2 import ClaimedTask
from tq_cluster.telemetry import logs as broker
from tq_common.log_lines import JsonFormatter, KeysOf, TextFormatter, own_keys, timestamp
from tq_worker import TaskContext
from tq_worker.api.context import RUNNING
from tq_worker.telemetry import logs as worker

ACTIVE = SpanContext(int("a" * 32, 16), int("b" * 16, 16), is_remote=False)


def record(event: str = "seen", level: int = logging.INFO, **keys: object) -> logging.LogRecord:
    facts: dict[str, Any] = {
        "msg": event,
        "name": "tq.x",
        "levelname": logging.getLevelName(level),
        "created": 1_767_323_045.678,
    }
    return logging.makeLogRecord({**facts, **keys})


def test_a_line_has_the_node_if_there_is_one() -> None:
    of_node = TextFormatter(own_keys, "n1").format(record(task_id="t1"))
    without = TextFormatter(own_keys).format(record(task_id="t1"))

    assert of_node == "2026-01-02T03:04:05.678Z n1 info     seen task_id=t1"
    assert without == "2026-01-02T03:04:05.678Z info     seen task_id=t1"
    assert json.loads(JsonFormatter(own_keys, "n1").format(record()))["node"] == "n1"
    assert "node" not in json.loads(JsonFormatter(own_keys).format(record()))


def test_events_of_all_levels_begin_in_the_same_column() -> None:
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    lines = [TextFormatter(worker.keys_of).format(record(level=level)) for level in levels]

    assert {line.index("seen") for line in lines} == {len("2026-01-02T03:04:05.678Z critical ")}


@pytest.mark.parametrize("keys_of", [broker.keys_of, worker.keys_of])
def test_a_json_line_names_its_logger(keys_of: KeysOf) -> None:
    line = json.loads(JsonFormatter(keys_of).format(record(task_id="t1")))

    assert line == {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "info",
        "logger": "tq.x",
        "event": "seen",
        "task_id": "t1",
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["a", "b"], "a,b"),
        ([], '""'),
        (["cannot be imported: a=1", 'b\n2026 "x"'], r'"cannot be imported: a=1,b\n2026 \"x\""'),
        ("t 1", '"t 1"'),
        ("", '""'),
        (3, "3"),
    ],
)
def test_a_value_that_could_be_taken_for_more_than_one_is_quoted(value: object, text: str) -> None:
    line = TextFormatter(own_keys).format(record(key=value))

    assert line.endswith(f" seen key={text}")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("keys_of", [broker.keys_of, worker.keys_of])
def test_a_line_about_a_task_has_the_tasks_trace_in_a_span_of_another(keys_of: KeysOf) -> None:
    of_task = "c" * 32
    with trace.use_span(NonRecordingSpan(ACTIVE)):
        of_span = keys_of(record())
        named = keys_of(record(trace_id=of_task))
        of_same = keys_of(record(trace_id="a" * 32))

    assert of_span == {"trace_id": "a" * 32, "span_id": "b" * 16}
    assert named == {"trace_id": of_task}
    assert of_same == of_span


def test_a_line_of_an_attempt_has_its_keys_and_those_given_override_them() -> None:
    claimed = ClaimedTask(attempt=3)
    claimed.spec.task_id, claimed.spec.queue, claimed.spec.type = "t1", "q", "resize"
    claimed.spec.traceparent = f"00-{'d' * 32}-{'e' * 16}-01"
    token = RUNNING.set(TaskContext(claimed, 0.0))
    try:
        keys = worker.keys_of(record(task_id="another", size=7))
    finally:
        RUNNING.reset(token)

    assert keys == {
        "trace_id": "d" * 32,
        "task_id": "another",
        "queue": "q",
        "type": "resize",
        "attempt": 3,
        "size": 7,
    }


def test_an_exception_follows_its_line_without_what_controls_a_terminal() -> None:
    def fail() -> None:
        raise ValueError("\x1b[2J")

    broken = record("it broke")
    try:
        fail()
    except ValueError as error:
        broken.exc_info = (type(error), error, error.__traceback__)

    first, *others = TextFormatter(own_keys).format(broken).splitlines()
    line = json.loads(JsonFormatter(own_keys).format(broken))

    assert first.endswith("it broke")
    assert others[0].startswith("Traceback")
    assert others[-1] == r"ValueError: \x1b[2J"
    assert "ValueError: " in line["exception"]


def test_an_instant_is_in_utc_to_the_millisecond() -> None:
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(1_767_323_045.678_9) == "2026-01-02T03:04:05.678Z"
