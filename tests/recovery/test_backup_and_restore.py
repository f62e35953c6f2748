"""A backup of a cluster at work, and the new cluster that is made of it: real nodes and disks."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from tests.admin.conftest import Ran
from tests.patience import PATIENCE_S
from tests.scopes import scope_of
from tests.service.fakes import Stubs, fails, until
from tests.service.trio import Trio, trio
from tq.v1 import (
    cluster_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_service_pb2,
)
from tq_admin.__main__ import app
from tq_cluster.clock import SystemClock
from tq_cluster.core.invariants import violations
from tq_cluster.core.rows import tables
from tq_cluster.node.node import Node
from tq_cluster.offline.restore import check, restore
from tq_cluster.storage.backup import read_header
from tq_cluster.storage.snapshot import NoRoomError

ReportResult = worker_service_pb2.ReportResult
HeartbeatResult = worker_service_pb2.HeartbeatResult


async def admin(nodes: Trio, *arguments: str) -> Ran:
    """Run tq-admin in a thread: the nodes are on the test's own loop."""
    addresses = [member.api for member in nodes.configs["n1"].members.values()]
    result = await asyncio.to_thread(
        CliRunner().invoke,
        app,
        ["--timeout", f"{PATIENCE_S:.0f}s", *arguments],
        env={"TQ_ADDRESS": ",".join(addresses)},
        catch_exceptions=False,
    )
    return Ran(result.exit_code, result.stdout, result.stderr)


async def submit(stubs: Stubs, request_id: str, *ids: str) -> task_service_pb2.SubmitResponse:
    request = task_service_pb2.SubmitRequest(request_id=request_id)
    for task_id in ids:
        request.tasks.add(queue="q", type="t", task_id=task_id, payload=b"x" * 5_000)
    return await stubs.tasks.Submit(request, timeout=PATIENCE_S, wait_for_ready=True)


async def claim(stubs: Stubs, most: int) -> list[worker_service_pb2.ClaimedTask]:
    request = worker_service_pb2.ClaimRequest(worker_id="w", queues=["q"], max_tasks=most)
    request.wait.FromSeconds(20)
    return list((await stubs.worker.Claim(request, timeout=PATIENCE_S, wait_for_ready=True)).tasks)


def rows_of(node: Node) -> dict[int, list[tuple[bytes, bytes]]]:
    view = node.group.store.view()
    return {
        table: list(view.scan(table, b"\0", b"\xff" * 511, limit=1_000_000))
        for table in range(tables.REQUESTS + 1)
    }


async def backed_up(folder: Path) -> tuple[Path, worker_service_pb2.ClaimedTask, int]:
    """A backup of a cluster in which task `a` runs, the lease of it, and the newest token."""
    async with trio(folder / "old") as nodes:
        await nodes.await_leader()
        async with nodes.stubs("n1") as stubs:
            await submit(stubs, "s1", "a", "b")
            [held] = await claim(stubs, 1)
            file = folder / "tasks.tqbackup"
            ran = await admin(nodes, "backup", str(file), "-o", "json")
            assert ran.code == 0, ran.stderr
            # The old cluster goes on: what it grants now the backup knows nothing of.
            [later] = await claim(stubs, 1)
        assert ran.json["applied_index"] <= nodes.nodes["n1"].group.replica.status().applied_index
    return file, held, later.token


@pytest.mark.slow
async def test_a_new_cluster_made_of_a_backup_has_its_tasks_and_none_of_its_leases(
    tmp_path: Path,
) -> None:
    file, held, newest_token = await backed_up(tmp_path)
    old_id = read_header(file).cluster_id
    assert "is whole" in check(file, None)

    nodes = Trio(tmp_path / "new")
    for config in nodes.configs.values():
        assert "holds node" in restore(file, config, SystemClock())
    async with trio(tmp_path / "new", nodes) as nodes:
        await nodes.await_leader()
        async with nodes.stubs("n2") as stubs:
            report = worker_service_pb2.ReportRequest(worker_id="w")
            report.reports.add(task_id="a", token=held.token).complete.result = b"late"
            late = await stubs.worker.Report(report, timeout=PATIENCE_S)
            beat = worker_service_pb2.HeartbeatRequest(worker_id="w")
            beat.leases.add(task_id="a", token=held.token)
            lost = await stubs.worker.Heartbeat(beat, timeout=PATIENCE_S)
            again = await submit(stubs, "s1", "a", "b")
            claimed = [*await claim(stubs, 1), *await claim(stubs, 1)]
            task = (
                await stubs.tasks.GetTask(
                    task_service_pb2.GetTaskRequest(task_id="a"), timeout=PATIENCE_S
                )
            ).task
            status = await stubs.cluster.GetClusterStatus(
                cluster_service_pb2.GetClusterStatusRequest(), timeout=PATIENCE_S
            )
        for node_id in list(nodes.nodes):
            await nodes.caught_up(node_id)
        states = [rows_of(node) for node in nodes.nodes.values()]
        wrong = [violations(scope_of(node.group.store.view())) for node in nodes.nodes.values()]

    assert late.results[0].status == ReportResult.STATUS_LEASE_LOST
    assert lost.results[0].status == HeartbeatResult.STATUS_LEASE_LOST
    # The request is remembered: nothing was created twice.
    assert [each.task.task_id for each in again.results] == ["a", "b"]
    assert {each.spec.task_id for each in claimed} == {"a", "b"}
    assert min(each.token for each in claimed) > newest_token
    assert task.attempts_made == 1
    assert task_pb2.Attempt.END_RELEASED in {attempt.end for attempt in task.attempts}
    assert status.cluster_id not in {"", old_id}
    assert wrong == [[], [], []]
    assert states[0] == states[1] == states[2]


@pytest.mark.slow
async def test_members_of_different_origins_form_no_cluster(tmp_path: Path) -> None:
    file, _, _ = await backed_up(tmp_path)
    nodes = Trio(tmp_path / "new")
    for node_id in ("n1", "n2"):
        restore(file, nodes.configs[node_id], SystemClock())

    async with trio(tmp_path / "new", nodes) as nodes:
        messages = await nodes.await_messages("restore all members from one backup, or none")

        assert nodes.leader_id() is None
        # Were the two to go on without the third, nothing would be wrong; were the third to win an
        # election, everything would be lost.
        assert {name for name in messages if messages[name]} >= {"n3"}


@pytest.mark.slow
async def test_a_disk_that_is_restored_once_more_is_not_taken_in(
    tmp_path: Path,
) -> None:
    file, _, _ = await backed_up(tmp_path)
    nodes = Trio(tmp_path / "new")
    for config in nodes.configs.values():
        restore(file, config, SystemClock())
    async with trio(tmp_path / "new", nodes) as nodes:
        await nodes.await_leader()
        async with nodes.stubs("n1") as stubs:
            await claim(stubs, 1)
        victim = next(name for name in nodes.nodes if name != nodes.leader_id())
        await nodes.stop(victim)
        nodes.configs[victim].data_dir.rename(tmp_path / "lost")
        restore(file, nodes.configs[victim], SystemClock())
        await nodes.start(victim)
        others = [node.group.replica for name, node in nodes.nodes.items() if name != victim]
        refused = "only an empty disk can be taken in"
        await until(
            lambda: all(refused in other.status().message for other in others), "both refuse it"
        )
        replaceable = [dict(other.status().strangers) for other in others]

    assert replaceable == [{}, {}]


@pytest.mark.slow
async def test_a_backup_holds_what_was_acknowledged_before_it_was_asked_for(
    tmp_path: Path,
) -> None:
    async with trio(tmp_path / "old") as nodes:
        leader_id = await nodes.await_leader()
        follower = next(name for name in nodes.nodes if name != leader_id)
        async with nodes.stubs(leader_id) as stubs:
            await submit(stubs, "s1", "a")
            committed = nodes.nodes[leader_id].group.replica.status().commit_index
            file = tmp_path / "backup"
            ran = await admin(nodes, "backup", str(file), "--node", follower, "-o", "json")

    assert ran.code == 0, ran.stderr
    assert ran.json["node_id"] == follower
    assert ran.json["applied_index"] >= committed
    content = file.read_bytes()
    assert hashlib.sha256(content[:-32]).digest() == content[-32:]


@pytest.mark.slow
async def test_a_node_makes_one_backup_at_a_time_and_goes_on_serving(tmp_path: Path) -> None:
    async with trio(tmp_path / "old") as nodes:
        leader_id = await nodes.await_leader()
        request = cluster_service_pb2.BackupRequest()
        async with nodes.stubs(leader_id) as stubs:
            await submit(stubs, "s1", *(f"t{number}" for number in range(500)))
            first = stubs.cluster.Backup(request)
            await first.read()
            with fails() as failure:
                await stubs.cluster.Backup(request).read()
            await submit(stubs, "s2", "while it is made")
            first.cancel()
            await nodes.await_calls(leader_id, 0)
            second = [part async for part in stubs.cluster.Backup(request)]

    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "OVERLOADED"
    assert sum(len(part.data) for part in second) == second[0].summary.file_bytes


async def test_a_node_without_a_state_makes_no_backup(tmp_path: Path) -> None:
    alone = Trio(tmp_path)
    await alone.start("n1")
    async with alone.stubs("n1") as stubs:
        with fails() as failure:
            await stubs.cluster.Backup(cluster_service_pb2.BackupRequest()).read()
    await alone.stop("n1")

    assert failure.reason == "NO_STATE"


@pytest.mark.slow
async def test_a_node_without_room_for_the_copy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise NoRoomError("0 MiB free")

    monkeypatch.setattr("tq_cluster.storage.snapshot._require_room", no_room)
    async with trio(tmp_path / "old") as nodes:
        leader_id = await nodes.await_leader()
        ran = await admin(nodes, "backup", str(tmp_path / "file"), "--node", leader_id)

    assert ran.code == 1
    assert "DISK_PRESSURE" in ran.stderr
    assert not (tmp_path / "file").exists()
