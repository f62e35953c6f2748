"""A rolling upgrade under load: its length and its effect on callers.

    python -m benchmarks.upgrade --old FOLDER [--tasks 1000000] [--data-dir DIR]

FOLDER holds the packages ``tq`` and ``tq_cluster`` of the software to upgrade from, as
``tests/recovery/first_version/make.py`` checks them out. If DIR holds data already, nothing more is
submitted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from chaos.cluster.processes import ProcessCluster
from tq.v1 import cluster_service_pb2, cluster_service_pb2_grpc, worker_service_pb2
from tq.v1.worker_service_pb2_grpc import WorkerServiceStub
from tq_client import AsyncClient, TqError, task_spec

BATCH = 1_000
LOADERS = 4
PROBE_S = 0.05
"""How often a lone task is submitted."""
LOAD_S = 0.05
LOAD_TASKS = 25
"""LOAD_TASKS tasks are submitted, claimed and completed every LOAD_S."""
BEFORE_S = 10.0
RAISED_S = 60.0
FILLED_S = 300.0


@dataclass(slots=True)
class Seen:
    """Latencies and holds, by phase."""

    phase: str = "before"
    lone_s: dict[str, list[float]] = field(default_factory=dict)
    hold_s: dict[str, float] = field(default_factory=dict)
    hold_cpu_s: dict[str, float] = field(default_factory=dict)
    completed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    lasted_s: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Record measurements under this name."""
        began_s = time.monotonic()
        self.phase = phase
        try:
            yield
        finally:
            self.lasted_s[phase] = time.monotonic() - began_s

    def print(self) -> None:
        """Print a line for each phase."""
        for phase, lasted_s in self.lasted_s.items():
            lone = sorted(self.lone_s.get(phase, []))
            sys.stdout.write(
                f"{phase:8} {lasted_s:6.1f} s, lone submit p50 {_part(lone, 0.5)} p99"
                f" {_part(lone, 0.99)} max {_part(lone, 1)} of {len(lone)}, completed beside it"
                f" {self.completed.get(phase, 0) / lasted_s:.0f}/s, calls that failed"
                f" {self.failed.get(phase, 0)}, longest hold"
                f" {self.hold_s.get(phase, 0) * 1e3:.1f} ms, of processor time"
                f" {self.hold_cpu_s.get(phase, 0) * 1e3:.1f} ms\n"
            )


def _part(ordered_s: list[float], part: float) -> str:
    if not ordered_s:
        return "-"
    return f"{ordered_s[min(len(ordered_s) - 1, int(part * len(ordered_s)))] * 1e3:.2f} ms"


async def measure(old: Path, data_dir: Path, tasks: int) -> None:
    """Upgrade a cluster with ``tasks`` tasks broker by broker, and wait until all is filled."""
    environment = {"PYTHONPATH": str(old), "PYTHONSAFEPATH": "1"}
    seen = Seen()
    async with (
        ProcessCluster(data_dir, environment=environment) as cluster,
        AsyncClient(cluster.addresses) as client,
    ):
        if tasks:
            await _fill(client, tasks)
            sys.stdout.write(f"{tasks} tasks are there\n")
        background = [
            asyncio.create_task(each)
            for each in (
                _probe(client, seen),
                _load(client, cluster, seen),
                _holds(cluster, seen),
            )
        ]
        with seen.during("before"):
            await asyncio.sleep(BEFORE_S)
        with seen.during("rolling"):
            for node_id, broker in cluster.brokers.items():
                await broker.stop()
                broker.setup = replace(broker.setup, environment={})
                broker.start()
                await cluster.await_caught_up([node_id], within_s=RAISED_S)
        with seen.during("raising"):
            await cluster.await_fact("newer rules", lambda: _raised(cluster), within_s=RAISED_S)
        with seen.during("filling"):
            await _be_in_need(cluster)
            await cluster.await_fact("filled", lambda: _filled(cluster), within_s=FILLED_S)
        with seen.during("after"):
            await asyncio.sleep(BEFORE_S)
        for each in background:
            each.cancel()
        await asyncio.gather(*background, return_exceptions=True)
    seen.print()


async def _fill(client: AsyncClient, tasks: int) -> None:
    left = iter(range(0, tasks, BATCH))

    async def load() -> None:
        for done in left:
            specs = [
                task_spec("q", f"t{number % 10}", b"x" * 32, priority=number % 3)
                for number in range(done, done + BATCH)
            ]
            for outcome in await client.submit_many(specs):
                if isinstance(outcome, TqError):
                    raise outcome

    await asyncio.gather(*(load() for _ in range(LOADERS)))


async def _probe(client: AsyncClient, seen: Seen) -> None:
    while True:
        phase, began_s = seen.phase, time.monotonic()
        try:
            await client.submit("lone", "t", b"x")
            seen.lone_s.setdefault(phase, []).append(time.monotonic() - began_s)
        except TqError:
            seen.failed[phase] = seen.failed.get(phase, 0) + 1
        await asyncio.sleep(PROBE_S)


async def _load(client: AsyncClient, cluster: ProcessCluster, seen: Seen) -> None:
    """Run a worker of one type that completes its tasks while other tasks wait."""
    spec = task_spec("busy", "fresh", b"x")
    while True:
        await asyncio.sleep(LOAD_S)
        try:
            await client.submit_many([spec] * LOAD_TASKS)
            leader = await cluster.await_leader(within_s=30)
            worker = WorkerServiceStub(cluster.channel(leader.node_id))
            claim = worker_service_pb2.ClaimRequest(
                worker_id="load", queues=["busy"], types=["fresh"], max_tasks=2 * LOAD_TASKS
            )
            granted = (await worker.Claim(claim, timeout=10)).tasks
            report = worker_service_pb2.ReportRequest(worker_id="load")
            for task in granted:
                report.reports.add(
                    task_id=task.spec.task_id, token=task.token
                ).complete.result = b"r"
            if granted:
                await worker.Report(report, timeout=10)
            seen.completed[seen.phase] = seen.completed.get(seen.phase, 0) + len(granted)
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - a broker stops: go on with the next
            seen.failed[seen.phase] = seen.failed.get(seen.phase, 0) + 1


async def _holds(cluster: ProcessCluster, seen: Seen) -> None:
    request = cluster_service_pb2.GetNodeStatusRequest()
    request.loop_hold_span.FromMilliseconds(1_100)
    while True:
        await asyncio.sleep(1.0)
        phase = seen.phase
        for node_id in cluster.brokers:
            stub = cluster_service_pb2_grpc.ClusterServiceStub(cluster.channel(node_id))
            with contextlib.suppress(Exception):
                status = (await stub.GetNodeStatus(request, timeout=2)).node
                for known, found in (
                    (seen.hold_s, status.loop_hold_max),
                    (seen.hold_cpu_s, status.loop_hold_cpu_max),
                ):
                    known[phase] = max(known.get(phase, 0.0), found.ToNanoseconds() / 1e9)


async def _raised(cluster: ProcessCluster) -> bool | None:
    stub = cluster_service_pb2_grpc.ClusterServiceStub(cluster.channel("n1"))
    reply = await stub.GetClusterStatus(cluster_service_pb2.GetClusterStatusRequest(), timeout=10)
    return reply.cluster_version >= 3 or None


async def _be_in_need(cluster: ProcessCluster) -> None:
    """Claim a type that is behind other types: the brokers keep the index by types from then on."""
    leader = await cluster.await_leader(within_s=30)
    worker = WorkerServiceStub(cluster.channel(leader.node_id))
    claim = worker_service_pb2.ClaimRequest(
        worker_id="needy", queues=["q"], types=["t9"], max_tasks=1
    )
    await worker.Claim(claim, timeout=10)


async def _filled(cluster: ProcessCluster) -> bool | None:
    logs = (cluster.folder / f"{node_id}.log" for node_id in cluster.brokers)
    return any("tables are filled" in log.read_text(errors="replace") for log in logs) or None


def main() -> None:
    """Measure once, and print the results."""
    parser = argparse.ArgumentParser(description="a rolling upgrade under load")
    parser.add_argument("--old", type=Path, required=True, help="software to upgrade from")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--data-dir", type=Path, help="kept, and gone on with if not empty")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.data_dir
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tq-upgrade-")))
        folder.mkdir(parents=True, exist_ok=True)
        tasks = 0 if any(folder.iterdir()) else arguments.tasks
        asyncio.run(measure(arguments.old, folder, tasks))


if __name__ == "__main__":
    main()
