"""A web application that submits tasks, under a web server that forks."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest

from chaos.cluster.ports import HeldPorts
from tests.client.fake_broker import FakeBroker, serving
from tests.patience import PATIENCE_S

APPLICATION = """
from tq_client.shared import shared

shared().submit("mail", "begun", timeout_s=5)  # under --preload before the workers are forked


def application(environment, start_response):
    task_id = shared().submit("mail", "send", timeout_s=5)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [task_id.encode()]
"""
WORKERS = 3
REQUESTS = 12


def fetch(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/", timeout=PATIENCE_S) as reply:
        text: str = reply.read().decode()
        return text


@pytest.mark.slow
@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["each by itself", "preloaded"])
@pytest.mark.parametrize("kind", ["sync", "gthread"])
async def test_workers_of_gunicorn_submit(
    kind: str, preload: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(textwrap.dedent(APPLICATION))
    broker, ports = FakeBroker(), HeldPorts(1)
    [address] = ports.addresses
    async with serving(broker) as brokers:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gunicorn", "shop:application", *preload),
            *("--bind", address, "--workers", str(WORKERS), "--worker-class", kind),
            "--no-control-socket",
            cwd=tmp_path,
            env={**os.environ, "TQ_ADDRESS": brokers},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            async with asyncio.timeout(60):
                while b"Booting worker" not in (line := await process.stderr.readline()):
                    assert line, "gunicorn ended"
                answers = await asyncio.gather(
                    *(asyncio.to_thread(fetch, address) for _ in range(REQUESTS))
                )
                process.terminate()
                said = (await process.stderr.read()).decode()
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            ports.give_back()

    submitted = [task.type for request in broker.of("Submit") for task in request.tasks]
    assert len(set(answers)) == REQUESTS
    assert submitted.count("send") == REQUESTS
    assert (code, "Traceback" in said) == (0, False), said
