"""The application in docs/fastapi.md, run by uvicorn as that page says."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import grpc
import pytest

from chaos.cluster.ports import HeldPorts
from tests.client.fake_broker import FakeBroker, refuse, serving
from tests.docs.commands import ROOT, commands, files
from tests.patience import PATIENCE_S
from tq.v1.task_pb2 import Task, TaskState
from tq.v1.task_service_pb2 import CancelTaskResponse, WaitTaskRequest, WaitTaskResponse
from tq_client import Reason

pytestmark = pytest.mark.slow

COMMAND = "uvicorn web:app --workers 2"


@dataclass(frozen=True)
class Answered:
    """The answer of the application to one request."""

    code: int
    body: Any
    headers: HTTPMessage


Request = Callable[..., Awaitable[Answered]]
"""Sends a request: method, path, and headers by name."""


def ask(address: str, method: str, path: str, **headers: str) -> Answered:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    with closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        reply = connection.getresponse()
        return Answered(reply.status, json.load(reply), reply.headers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the modules of the page."""
    shutil.copy(ROOT / "examples" / "images.py", tmp_path)
    for name, text in files("docs/fastapi.md").items():
        (tmp_path / name).write_text(text)
    return tmp_path


@asynccontextmanager
async def running(folder: Path, broker: FakeBroker) -> AsyncIterator[Request]:
    """Run the application until the end of the block; yields a function that sends requests."""
    assert COMMAND in {command.text for command in commands()}
    ports = HeldPorts(1)
    [address] = ports.addresses
    host, _, port = address.rpartition(":")
    async with serving(broker) as brokers:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *COMMAND.split(), "--host", host, "--port", port),
            cwd=folder,
            env={**os.environ, "TQ_ADDRESS": brokers},
            stderr=asyncio.subprocess.PIPE,
        )
        said = b""
        try:
            assert process.stderr is not None
            async with asyncio.timeout(PATIENCE_S):
                while said.count(b"startup complete") < 2:
                    line = await process.stderr.readline()
                    said += line
                    assert line, f"uvicorn ended: {said.decode()}"
                yield lambda *what, **headers: asyncio.to_thread(ask, address, *what, **headers)
                process.terminate()
                said += await process.stderr.read()
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            ports.give_back()
        assert b"Traceback" not in said, said.decode()


def waited(state: TaskState.ValueType, result: bytes = b"") -> Callable[..., WaitTaskResponse]:
    def answer(request: WaitTaskRequest) -> WaitTaskResponse:
        task = Task(state=state, result=result, last_error="Traceback of the handler")
        ended = state not in {TaskState.TASK_STATE_PENDING, TaskState.TASK_STATE_RUNNING}
        return WaitTaskResponse(task=task, finished=ended)

    return answer


async def test_the_application_submits_waits_and_cancels(folder: Path) -> None:
    broker = FakeBroker()
    broker.answers["CancelTask"] = lambda _: CancelTaskResponse(state=TaskState.TASK_STATE_RUNNING)

    async with running(folder, broker) as request:
        created = await request("POST", "/thumbnails?path=a.png")
        await request("POST", "/thumbnails?path=b.png", Idempotency_Key="order-7")
        broker.answers["WaitTask"] = waited(TaskState.TASK_STATE_RUNNING)
        early = await request("GET", "/thumbnails/order-7")
        thumbnail = {"path": "a.200.png", "width": 200, "height": 150}
        done = waited(TaskState.TASK_STATE_COMPLETED, json.dumps(thumbnail).encode())
        broker.answers["WaitTask"] = done
        finished = await request("GET", "/thumbnails/order-7")
        broker.answers["WaitTask"] = waited(TaskState.TASK_STATE_FAILED)
        failed = await request("GET", "/thumbnails/order-7")
        cancelled = await request("DELETE", "/thumbnails/order-7")

    first, second = [spec for call in broker.of("Submit") for spec in call.tasks]
    assert (created.code, created.body) == (202, {"task_id": created.body["task_id"]})
    assert json.loads(first.payload) == {"path": "a.png", "size": 200}
    assert (second.task_id, second.queue, second.type) == ("order-7", "images", "resize")
    assert (early.code, early.headers["Retry-After"]) == (202, "5")
    assert (finished.code, finished.body) == (200, thumbnail)
    assert (failed.code, failed.body) == (500, {"detail": "the task is FAILED"})
    assert (cancelled.code, cancelled.body) == (202, {"state": "RUNNING"})
    assert [call.task_id for call in broker.of("CancelTask")] == ["order-7"]


async def test_each_error_of_a_call_becomes_its_http_code(folder: Path) -> None:
    refusals = {
        (Reason.INVALID_ARGUMENT, grpc.StatusCode.INVALID_ARGUMENT): 422,
        (Reason.NOT_FOUND, grpc.StatusCode.NOT_FOUND): 404,
        (Reason.QUOTA_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED): 503,
        (Reason.INTERNAL, grpc.StatusCode.INTERNAL): 500,
    }
    broker = FakeBroker(steps=[refuse(reason, code) for reason, code in refusals])

    async with running(folder, broker) as request:
        answers = [await request("DELETE", "/thumbnails/order-7") for _ in refusals]
        unnamed = await request("POST", "/thumbnails?path=a.png", Idempotency_Key="not/allowed")

    assert [answer.code for answer in answers] == list(refusals.values())
    assert [answer.body["detail"] for answer in answers] == [str(why) for why, _ in refusals]
    assert int(answers[2].headers["Retry-After"]) >= 1
    assert unnamed.code == 422
    assert not broker.of("Submit")


def test_the_application_has_the_types_that_it_says(folder: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={folder}/cache", "web.py"],
        cwd=folder,
        env={**os.environ, "MYPYPATH": f"{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout
