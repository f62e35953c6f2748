"""The examples in docs/coming-from.md run, and the names in it are names of ours."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sqlite3
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from typer.testing import CliRunner

import tq_admin.__main__
from tests.client.fake_broker import FakeBroker, serving
from tq.v1.errors_pb2 import ErrorReason
from tq.v1.task_pb2 import Task, TaskSpec, TaskState
from tq.v1.task_service_pb2 import (
    SubmitRequest,
    SubmitResponse,
    WaitTaskRequest,
    WaitTaskResponse,
)
from tq.v1.worker_service_pb2 import ClaimedTask
from tq_client import SpecFields
from tq_worker import PermanentError, Result, RetryableError, TaskContext
from tq_worker.api import registry

DOCUMENT = Path(__file__).parents[2] / "docs" / "coming-from.md"
TEXT = DOCUMENT.read_text()
EXAMPLES: list[str] = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
OURS = [importlib.import_module(name) for name in ("tq_client", "tq_worker")]


def example(having: str) -> str:
    """The one example that contains this."""
    [found] = [code for code in EXAMPLES if having in code]
    return found


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> registry.Registry:
    """Handlers of a test's own."""
    fresh = registry.Registry()
    monkeypatch.setattr(registry, "HANDLERS", fresh)
    return fresh


def define(having: str) -> None:
    """Import a handler's example as a worker would."""
    exec(compile(example(having), str(DOCUMENT), "exec"), {})  # noqa: S102 - it is our own text


async def attempt(
    handlers: registry.Registry, task_type: str, payload: bytes, *, token: int = 7, number: int = 1
) -> object:
    """Run a handler as a worker does, without one."""
    handler = handlers.get(task_type)
    assert handler is not None, f"no example handles {task_type}: {handlers.task_types()}"
    claimed = ClaimedTask(
        spec=TaskSpec(task_id="t", queue="q", type=task_type, payload=payload),
        token=token,
        attempt=number,
        lease=Duration(seconds=30),
    )
    returned = handler.function(payload, TaskContext(claimed, 0.0))
    return await returned if handler.is_async else returned  # type: ignore[misc]  # async here


async def call(having: str, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a caller's example against a broker of this process."""
    async with serving(broker) as address:
        monkeypatch.setenv("TQ_ADDRESS", address)
        await asyncio.to_thread(define, having)


def submitted(broker: FakeBroker) -> list[TaskSpec]:
    return [spec for request in broker.of("Submit") for spec in request.tasks]


async def test_a_celery_task_and_its_caller(
    handlers: registry.Registry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    define('@task("add")')
    broker = FakeBroker()

    result = await attempt(handlers, "add", b"[2, 3]")
    assert isinstance(result, bytes)

    def completed(request: WaitTaskRequest) -> WaitTaskResponse:
        done = Task(state=TaskState.TASK_STATE_COMPLETED, result=result)
        return WaitTaskResponse(task=done, finished=True)

    broker.answers["WaitTask"] = completed
    await call("add.delay(2, 3)", broker, monkeypatch)

    assert capsys.readouterr().out == "5\n"
    now, later = submitted(broker)
    assert (now.queue, now.type, json.loads(now.payload)) == ("sums", "add", [2, 3])
    assert later.HasField("run_at")
    assert not now.HasField("run_at")
    with pytest.raises(PermanentError):
        await attempt(handlers, "add", b'["2", 3]')


async def test_a_rabbitmq_consumer_that_publishes(handlers: registry.Registry) -> None:
    define('@task("order.paid")')

    returned = await attempt(handlers, "order.paid", b"order 42")

    assert isinstance(returned, Result)
    assert [(spec.queue, spec.type, spec.priority) for spec in returned.submit] == [
        ("mail", "receipt", 0),
        ("warehouse", "pack", 200),
    ]


async def test_a_jetstream_message_id(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known: set[str] = set()
    broker = FakeBroker()
    create = broker.answers["Submit"]

    def once(request: SubmitRequest) -> SubmitResponse:
        response = create(request)
        assert isinstance(response, SubmitResponse)
        for spec, result in zip(request.tasks, response.results, strict=True):
            if spec.task_id in known:
                result.error.reason = ErrorReason.ERROR_REASON_TASK_EXISTS
            known.add(spec.task_id)
        return response

    broker.answers["Submit"] = once
    await call("invoice-order-42", broker, monkeypatch)
    assert capsys.readouterr().out == ""
    await call("invoice-order-42", broker, monkeypatch)
    assert capsys.readouterr().out == "it was submitted before\n"
    assert known == {"invoice-order-42"}


async def test_an_sqs_consumer_whose_database_refuses_an_earlier_attempt(
    handlers: registry.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("accounts.db") as accounts:
        accounts.execute("CREATE TABLE accounts (name TEXT, balance INTEGER, token INTEGER)")
        accounts.execute("INSERT INTO accounts VALUES ('ann', 0, 0)")
    define('@task("set-balance")')

    def payload(balance: int) -> bytes:
        return json.dumps({"name": "ann", "balance": balance}).encode()

    await attempt(handlers, "set-balance", payload(2), token=2)
    with pytest.raises(RuntimeError, match="later attempt"):
        await attempt(handlers, "set-balance", payload(1), token=1)

    with sqlite3.connect("accounts.db") as accounts:
        assert accounts.execute("SELECT balance, token FROM accounts").fetchall() == [(2, 2)]


async def test_a_sidekiq_job_and_its_retries(
    handlers: registry.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = FakeBroker()
    await call("patient", broker, monkeypatch)
    define('@task("report")')

    [spec] = submitted(broker)
    assert spec.max_attempts == 10
    assert spec.retry_policy.multiplier == 3
    assert spec.retry_policy.initial_backoff.seconds == 15
    assert spec.retry_policy.max_backoff.seconds == 24 * 3600
    with pytest.raises(RetryableError) as refused:
        await attempt(handlers, spec.type, spec.payload)
    assert refused.value.retry_after_s == 30
    assert await attempt(handlers, spec.type, spec.payload, number=2) == b"report 42"


def test_every_example_is_run_by_a_test_here() -> None:
    own = Path(__file__).read_text()
    run = re.findall(r"(?:define|call)\(\s*(?:'([^']+)'|\"([^\"]+)\")", own)

    assert {example(single or double) for single, double in run} == set(EXAMPLES)


def test_names_that_are_said_to_be_ours_are() -> None:
    for owner, name in re.findall(r"`(Result|Client|context)\.(\w+)`", TEXT):
        assert name in names_of(TaskContext if owner == "context" else found(owner))
    for name in ("PermanentError", "RetryableError", "Client", "Backoff", "task_spec"):
        assert name in TEXT
        found(name)
    for field in ("timeout", "run_at", "expire_at", "retention", "retries", "task_id"):
        assert f"`{field}`" in TEXT or f"**{field}**" in TEXT
        assert field in SpecFields.__annotations__


def names_of(kind: object) -> set[str]:
    return {*dir(kind), *getattr(kind, "__dataclass_fields__", ())}


def found(name: str) -> object:
    """What tq_client or tq_worker exports under this name."""
    [kind] = [getattr(module, name) for module in OURS if name in module.__all__]
    return kind


def test_every_command_that_is_named_exists() -> None:
    commands = set(re.findall(r"`tq-admin ([a-z -]+?)`", TEXT))

    assert len(commands) >= 4
    for command in commands:
        shown = CliRunner().invoke(tq_admin.__main__.app, [*command.split(), "--help"])
        assert shown.exit_code == 0, f"tq-admin {command}: {shown.output}"


def test_other_peoples_words_stay_translations() -> None:
    assert "exactly-once delivery" not in TEXT.lower()
    for line in TEXT.splitlines():
        if "visibility timeout" in line.lower():
            assert re.search("Celery|SQS|Amazon|Redis|^\\| ", line), line
