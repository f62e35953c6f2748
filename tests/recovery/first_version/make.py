"""Makes the stored files of the first version: its software, and the disks of a cluster of it.

    python -m tests.recovery.first_version.make COMMIT

COMMIT is the last one of the first version. Run once, from the root of a checkout that has it: the
archives beside this file are what the tests use, so that they need no history.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from chaos.cluster.processes import ProcessCluster
from tests.recovery.first_version import DATA, PACKAGES, SOFTWARE, environment_of
from tests.service.fakes import Stubs
from tq.v1 import queue_service_pb2, task_service_pb2, worker_service_pb2

ROOT = Path(__file__).resolve().parents[3]


def check_out(commit: str, folder: Path) -> None:
    """Put the first version, with what it generates, into ``folder``."""
    listing = ["git", "archive", commit, "proto", "scripts", "tq_cluster"]
    archive = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout
    unpack = ["tar", "-x", "-C", str(folder)]
    subprocess.run(unpack, input=archive, check=True)
    generate = [sys.executable, "scripts/generate_protos.py"]
    subprocess.run(generate, cwd=folder, check=True)


async def at_work(cluster: ProcessCluster) -> None:
    """Leave a task in every state, one with a large payload, one with attempts behind it."""
    leader = await cluster.await_leader(within_s=60)
    stubs = Stubs(cluster.channel(leader.node_id))
    request = task_service_pb2.SubmitRequest(request_id="s1")
    for number, task_id in enumerate(("done", "dead", "runs", "released", "ready", "cancelled")):
        request.tasks.add(queue="q", type="t", task_id=task_id, priority=60 - number)
    large = request.tasks.add(queue="large", type="t", task_id="large", payload=b"x" * 200_000)
    large.labels["size"] = "large"
    later = request.tasks.add(queue="q", type="t", task_id="later")
    later.run_at.FromSeconds(int(time.time()) + 300 * 86_400)
    await stubs.tasks.Submit(request, timeout=30)
    claim = worker_service_pb2.ClaimRequest(worker_id="w", queues=["q"], max_tasks=4)
    claim.lease.FromSeconds(3600)
    tasks = (await stubs.worker.Claim(claim, timeout=30)).tasks
    done, dead, _, released = ((task.spec.task_id, task.token) for task in tasks)
    report = worker_service_pb2.ReportRequest(worker_id="w")
    report.reports.add(task_id=done[0], token=done[1]).complete.result = b"r" * 10_000
    failed = report.reports.add(task_id=dead[0], token=dead[1])
    failed.fail.error, failed.fail.permanent = "no such image", True
    back = report.reports.add(task_id=released[0], token=released[1])
    back.release.reason = "shutting down"
    await stubs.worker.Report(report, timeout=30)
    cancel = task_service_pb2.CancelTaskRequest(task_id="cancelled", request_id="c1")
    await stubs.tasks.CancelTask(cancel, timeout=30)
    paused = queue_service_pb2.ConfigureQueueRequest(queue="large")
    paused.settings.paused = True
    await stubs.queues.ConfigureQueue(paused, timeout=30)


async def run_and_kill(software: Path, folder: Path) -> None:
    """Leave the disks of three brokers: one that was stopped, two that were killed."""
    async with ProcessCluster(folder, environment=environment_of(software)) as cluster:
        await at_work(cluster)
        await cluster.await_caught_up(cluster.brokers, within_s=30)
        await cluster.brokers["n1"].stop()
        cluster.kill("n2", "n3")


def main(commit: str) -> None:
    """Make both archives."""
    with tempfile.TemporaryDirectory() as scratch:
        software, folder = Path(scratch) / "software", Path(scratch) / "data"
        software.mkdir()
        check_out(commit, software)
        asyncio.run(run_and_kill(software, folder))
        with tarfile.open(SOFTWARE, "w:xz") as archive:
            for package in PACKAGES:
                archive.add(software / package, package, filter=_plain)
        with tarfile.open(DATA, "w:xz") as archive:
            for node in ("n1", "n2", "n3"):
                archive.add(folder / node, node, filter=_plain)


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in info.name or info.name.endswith((".pyi", ".lock", "lock.mdb")):
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


if __name__ == "__main__":
    main(sys.argv[1])
