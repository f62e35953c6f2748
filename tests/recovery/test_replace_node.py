"""`tq-admin replace-node` against real nodes that lose their disks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.recovery.test_backup_and_restore import admin, submit
from tests.service.fakes import fails, until
from tests.service.trio import Trio, trio
from tq.v1 import task_service_pb2
from tq_cluster.raft.log_api import Role

TASKS = [f"task-{number}" for number in range(40)]


async def lose_disk(nodes: Trio, node_id: str) -> None:
    """Stop the node, remove all its data, start it again, and have the leader hear of it."""
    await nodes.stop(node_id)
    shutil.rmtree(nodes.configs[node_id].data_dir)
    await nodes.start(node_id)
    await nodes.await_messages("is not a member of its peers' cluster")
    # One peer's word is enough for the message, and need not be the leader's.
    leader = nodes.nodes[await nodes.await_leader()].group.replica
    disk = nodes.nodes[node_id].group.data.directory.incarnation
    await until(
        lambda: leader.status().strangers.get(node_id) == disk, f"the leader hears of {node_id}"
    )


@pytest.mark.slow
async def test_a_node_that_lost_its_disk_is_replaced_and_another_may_die_then(
    tmp_path: Path,
) -> None:
    async with trio(tmp_path) as nodes:
        leader_id = await nodes.await_leader()
        lost, other = (name for name in nodes.configs if name != leader_id)
        async with nodes.stubs(leader_id) as stubs:
            await submit(stubs, "before", *TASKS[:20])
            await lose_disk(nodes, lost)
            await submit(stubs, "between", *TASKS[20:])
        async with nodes.stubs(lost) as stubs:
            with fails() as refused:
                await submit(stubs, "outside", "for another node")
        assert refused.reason == "NO_LEADER"

        ran = await admin(nodes, "replace-node", lost, "--yes", "-o", "json")

        assert ran.code == 0, ran.stderr
        assert (ran.json["node_id"], ran.json["caught_up"]) == (lost, True)
        await nodes.caught_up(lost)
        await nodes.stop(other)
        async with nodes.stubs(lost) as stubs:
            for task_id in TASKS:
                request = task_service_pb2.GetTaskRequest(task_id=task_id)
                reply = await stubs.tasks.GetTask(request, timeout=PATIENCE_S)
                assert reply.task.spec.task_id == task_id
            await submit(stubs, "after", "one more")
        assert nodes.errors == []


async def test_what_cannot_be_replaced_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        leader_id = await nodes.await_leader()
        lost, other = (name for name in nodes.configs if name != leader_id)

        well = await admin(nodes, "replace-node", lost, "--yes")
        leading = await admin(nodes, "replace-node", leader_id, "--yes")
        nobody = await admin(nodes, "replace-node", "n9", "--yes")
        await nodes.stop(lost)
        gone = await admin(nodes, "replace-node", lost, "--yes")
        unasked = await admin(nodes, "replace-node", other)

        assert [ran.code for ran in (well, leading, nobody, gone, unasked)] == [1, 1, 1, 1, 2]
        assert "there is nothing to replace" in well.stderr
        assert f"{leader_id} leads" in leading.stderr
        assert "no member" in nobody.stderr
        assert "no empty node introduces itself" in gone.stderr
        assert "nobody is there to ask" in unasked.stderr


@pytest.mark.slow
async def test_a_disk_that_was_replaced_is_never_used_again(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        leader_id = await nodes.await_leader()
        lost = next(name for name in nodes.configs if name != leader_id)
        data_dir = nodes.configs[lost].data_dir
        await nodes.stop(lost)
        shutil.copytree(data_dir, tmp_path / "old")
        await nodes.start(lost)
        await lose_disk(nodes, lost)
        assert (await admin(nodes, "replace-node", lost, "--yes")).code == 0

        await nodes.stop(lost)
        shutil.rmtree(data_dir)
        shutil.copytree(tmp_path / "old", data_dir)
        await nodes.start(lost)

        replica = nodes.nodes[lost].group.replica
        await until(lambda: replica.status().role is Role.STRANGER, "the old disk is a stranger")
        assert "another disk" in replica.status().message
