"""Real workers over real brokers: both are killed, every task is done once and right."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from chaos.clients.client import StubClient
from chaos.cluster.processes import ProcessCluster
from chaos.cluster.workers import WorkerProcesses
from chaos.history.model import TERMINAL
from chaos.history.record import Ledger
from chaos.history.verdict import check, report
from tests.patience import PATIENCE_S
from tq.v1 import task_pb2

pytestmark = pytest.mark.cluster

QUEUE = "real"
LEADERS_KILLED = 3
WAVE = 150
LEASE_S = 3


async def submit_wave(client: StubClient, wave: int) -> dict[str, bytes]:
    """Submit tasks that take a moment each; what each has to return, by id."""
    expected = {}
    for number in range(WAVE):
        payload = f"wave {wave}, task {number}".encode()
        spec = task_pb2.TaskSpec(queue=QUEUE, type="echo", payload=payload)
        [task_id] = await client.submit([spec])
        assert task_id is not None
        expected[task_id] = payload
    return expected


async def test_killed_leaders_and_killed_workers_cost_no_task(
    cluster: ProcessCluster, tmp_path: Path
) -> None:
    ledger = Ledger(time.monotonic)
    client = StubClient(cluster.addresses, ledger, "client")
    workers = WorkerProcesses(
        tmp_path / "workers",
        cluster.addresses,
        count=2,
        handlers="tq_worker.handlers",
        queue=QUEUE,
        options=("--concurrency", "8", "--lease", f"{LEASE_S}s"),
    )
    workers.start()
    expected: dict[str, bytes] = {}
    try:
        for wave in range(LEADERS_KILLED):
            submitting = asyncio.create_task(submit_wave(client, wave))
            leader = await cluster.await_leader(within_s=PATIENCE_S)
            cluster.kill(leader.node_id)
            workers.kill("w1")
            workers.start()
            expected |= await submitting
            cluster.restart(leader.node_id)
            await cluster.await_caught_up([leader.node_id], within_s=PATIENCE_S)
            workers.check_alive()

        async def finished() -> bool | None:
            tasks = await client.list_all()
            return all(task.state in TERMINAL for task in tasks) or None

        await cluster.await_fact("every task to finish", finished, within_s=PATIENCE_S)
        ledger.listed(await client.list_all())
        results = {}
        for task_id in expected:
            task = await client.read(task_id)
            results[task_id] = task.result if task else None
    finally:
        await workers.stop()
        await client.close()

    assert report(ledger, check(ledger, all_workers=False)) == ""
    assert results == expected
