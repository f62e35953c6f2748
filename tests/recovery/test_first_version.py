"""What the first version left on its disks, and its brokers beside those of today."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from chaos.cluster.broker import BrokerProcess
from chaos.cluster.processes import ProcessCluster
from tests.patience import PATIENCE_S
from tests.recovery.first_version import DATA, SOFTWARE, environment_of, unpack
from tests.recovery.test_backup_and_restore import claim, submit
from tests.scopes import scope_of
from tests.service.fakes import Stubs, until
from tests.service.trio import trio
from tq.v1 import (
    cluster_service_pb2,
    queue_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_service_pb2,
)
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.invariants import violations
from tq_cluster.core.model.operations import Replied
from tq_cluster.core.reads import queries
from tq_cluster.core.reads.steps import in_one_go
from tq_cluster.raft import secret
from tq_cluster.raft.identity import Identity, read_identity
from tq_cluster.raft.pysyncobj_core import NO_OP
from tq_cluster.raft.startup import open_data
from tq_cluster.raft.syncer import InlineSyncer

STATUS = cluster_service_pb2.GetClusterStatusRequest()
COMPOSE_FILE = Path(__file__).resolve().parents[2] / "docker-compose.cluster.yml"


def raise_it(error: BaseException) -> None:
    raise error


async def read(stubs: Stubs, task_id: str) -> task_pb2.Task:
    request = task_service_pb2.GetTaskRequest(task_id=task_id)
    return (await stubs.tasks.GetTask(request, timeout=PATIENCE_S)).task


async def complete(stubs: Stubs, task: worker_service_pb2.ClaimedTask) -> str:
    report = worker_service_pb2.ReportRequest(worker_id="w")
    report.reports.add(task_id=task.spec.task_id, token=task.token).complete.result = b"r"
    [result] = (await stubs.worker.Report(report, timeout=PATIENCE_S)).results
    return worker_service_pb2.ReportResult.Status.Name(result.status)


@pytest.mark.parametrize("node_id", ["n1", "n2", "n3"])
def test_every_disk_of_the_first_version_holds_what_was_done(tmp_path: Path, node_id: str) -> None:
    """One broker was stopped, two were killed: of those the journal has what the state lacks."""
    data = open_data(
        unpack(DATA, tmp_path) / node_id,
        node_id=node_id,
        draw=random.Random(1),
        syncer=InlineSyncer(),
        on_fatal=raise_it,
    )
    for index in range(data.store.applied.index + 1, data.journal.last_index + 1):
        command, _, term = data.journal.entry(index)
        data.store.apply(index, term, b"" if command == NO_OP else command)
    view = data.store.view()
    tasks = {}
    for name in ("done", "dead", "runs", "released", "ready", "cancelled", "large", "later"):
        request = task_service_pb2.GetTaskRequest(task_id=name)
        outcome = in_one_go(scope_of(view), queries.get_task, request)
        assert isinstance(outcome, Replied)
        assert isinstance(outcome.reply, task_service_pb2.GetTaskResponse)
        tasks[name] = outcome.reply.task
    states = {name: task_pb2.TaskState.Name(task.state) for name, task in tasks.items()}
    wrong = violations(scope_of(view))
    recorded = data.directory.members
    in_state = queries.membership(view)
    data.store.close()
    data.disk.close()
    data.directory.release()

    assert states == {
        "done": "TASK_STATE_COMPLETED",
        "dead": "TASK_STATE_FAILED",
        "runs": "TASK_STATE_RUNNING",
        "released": "TASK_STATE_PENDING",
        "ready": "TASK_STATE_PENDING",
        "cancelled": "TASK_STATE_CANCELLED",
        "large": "TASK_STATE_PENDING",
        "later": "TASK_STATE_SCHEDULED",
    }
    assert tasks["done"].result == b"r" * 10_000
    assert tasks["large"].spec.payload == b"x" * 200_000
    assert [attempt.error for attempt in tasks["dead"].attempts] == ["no such image"]
    assert wrong == []
    # It wrote none down: the list is taken from the state or, of one that was killed, the journal.
    assert recorded is not None
    assert in_state is not None
    assert recorded.incarnations == in_state[1]


@pytest.mark.slow
async def test_a_cluster_goes_on_over_the_first_versions_disks(tmp_path: Path) -> None:
    unpack(DATA, tmp_path)
    async with trio(tmp_path) as nodes:
        leader_id = await nodes.await_leader()
        async with nodes.stubs(leader_id) as stubs:
            token = (await read(stubs, "runs")).attempts[-1].token
            # The worker that the first version leased it to finishes, under its token.
            runs = worker_service_pb2.ClaimedTask(token=token)
            runs.spec.task_id = "runs"
            finished = await complete(stubs, runs)
            [next_task] = await claim(stubs, 1)
            stats = await stubs.queues.GetQueueStats(
                queue_service_pb2.GetQueueStatsRequest(queue="large"), timeout=PATIENCE_S
            )
        store = nodes.nodes[leader_id].group.store
        await until(
            lambda: queries.cluster_version(store.view()) == CLUSTER_VERSION, "today's rules"
        )
        wrong = violations(scope_of(store.view()))

    assert finished == "STATUS_RECORDED"
    assert next_task.spec.task_id == "released"
    assert next_task.token > token
    assert stats.stats.settings.paused
    assert wrong == []


@pytest.mark.cluster
async def test_brokers_are_upgraded_one_by_one_and_the_old_software_then_refused(
    tmp_path: Path,
) -> None:
    old = environment_of(unpack(SOFTWARE, tmp_path / "software"))
    async with ProcessCluster(tmp_path / "cluster", environment=old) as cluster:
        await pile_up(cluster)
        versions = []
        for number, node_id in enumerate(list(cluster.brokers), start=1):
            await work(cluster, f"before-{number}")
            await upgrade(cluster, node_id)
            await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
            await work(cluster, f"after-{number}")
            versions.append(await version(cluster, node_id))

        async def raised() -> bool | None:
            return await version(cluster, "n1") == CLUSTER_VERSION or None

        await cluster.await_fact("today's rules", raised, within_s=PATIENCE_S)
        rare = await claim_rare(cluster)
        await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
        disks = {name: identity_of(broker) for name, broker in cluster.brokers.items()}
        broker = cluster.brokers["n1"]
        await broker.stop()
        broker.setup = replace(broker.setup, environment=old)
        broker.start()
        await until(lambda: broker.exited() is not None, "it refuses to start", within_s=PATIENCE_S)
        code, said = broker.exited(), broker.log_tail()
        broker.kill()
        await work(cluster, "without-it")

    # Each has written down who the members are, which no file says from now on.
    listed = {name: identity.incarnation for name, identity in disks.items()}
    assert [each.members and each.members.incarnations for each in disks.values()] == [listed] * 3
    # As long as one is old, all decide by its rules.
    assert versions[:2] == [1, 1]
    # It waits behind more others than a claim passes: only the table by type, once filled, has it.
    assert [task.spec.task_id for task in rare] == ["rare"]
    assert code == 2
    assert f"is of cluster version {CLUSTER_VERSION}, this software knows 1" in said


@pytest.mark.cluster
async def test_brokers_are_upgraded_one_by_one_as_the_compose_file_gives_them_a_secret(
    tmp_path: Path,
) -> None:
    given = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["n1"]["environment"]
    variable, _, default = given["TQ_CLUSTER_SECRET_OPTIONAL"].strip("${}").partition(":-")
    secret.draw(tmp_path / "secret")
    settings = {"TQ_CLUSTER_SECRET_FILE": str(tmp_path / "secret")}
    optional = {**settings, variable: "true"}
    old = environment_of(unpack(SOFTWARE, tmp_path / "software"))
    async with ProcessCluster(tmp_path / "cluster", environment=old) as cluster:
        await work(cluster, "first")
        for environment in (optional, settings):
            for node_id in cluster.brokers:
                await upgrade(cluster, node_id, environment)
                await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
        await work(cluster, "last")

    assert default == "false"


def identity_of(broker: BrokerProcess) -> Identity:
    identity = read_identity(broker.data_dir)
    assert identity is not None
    return identity


async def pile_up(cluster: ProcessCluster) -> None:
    """Leave some thousand tasks of one type, and one of another behind them."""
    leader = await cluster.await_leader(within_s=PATIENCE_S)
    stubs = Stubs(cluster.channel(leader.node_id))
    for _ in range(3):
        request = task_service_pb2.SubmitRequest()
        for _ in range(1_000):
            request.tasks.add(queue="pile", type="common")
        await stubs.tasks.Submit(request, timeout=PATIENCE_S)
    request = task_service_pb2.SubmitRequest()
    request.tasks.add(queue="pile", type="rare", task_id="rare")
    await stubs.tasks.Submit(request, timeout=PATIENCE_S)


async def claim_rare(cluster: ProcessCluster) -> list[worker_service_pb2.ClaimedTask]:
    """Wait for it as a worker of that type does."""
    leader = await cluster.await_leader(within_s=PATIENCE_S)
    stubs = Stubs(cluster.channel(leader.node_id))
    request = worker_service_pb2.ClaimRequest(
        worker_id="w", queues=["pile"], types=["rare"], max_tasks=5
    )
    request.wait.FromSeconds(60)
    return list((await stubs.worker.Claim(request, timeout=90)).tasks)


async def work(cluster: ProcessCluster, name: str) -> None:
    """Submit a task, and have it claimed and completed, at whichever node leads."""
    leader = await cluster.await_leader(within_s=PATIENCE_S)
    stubs = Stubs(cluster.channel(leader.node_id))
    await submit(stubs, name, name)
    [task] = await claim(stubs, 1)
    assert task.spec.task_id == name
    assert await complete(stubs, task) == "STATUS_RECORDED"


async def upgrade(
    cluster: ProcessCluster, node_id: str, settings: Mapping[str, str] | None = None
) -> None:
    """Stop a broker and start it with today's software."""
    broker = cluster.brokers[node_id]
    await broker.stop()
    broker.setup = replace(broker.setup, environment=settings or {})
    broker.start()


async def version(cluster: ProcessCluster, node_id: str) -> int:
    stubs = Stubs(cluster.channel(node_id))
    return (await stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S)).cluster_version
