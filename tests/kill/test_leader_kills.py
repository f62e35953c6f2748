"""Leaders die under load, again and again; the ledger shows that nothing acknowledged is lost.

The client and the workers are made from generated stubs alone. Every call is written down, and the
checker judges the whole history at the end (see chaos/history for what it looks at).
"""

from __future__ import annotations

import asyncio

import pytest

from chaos.clients.client import StubClient
from chaos.clients.load import Load, wrong_results
from chaos.clients.worker import Plan, StubWorker, work_result
from chaos.cluster.processes import ProcessCluster
from chaos.history.calls import Ending, ReportStatus
from chaos.history.outages import Outage, outage, summary
from chaos.history.verdict import report
from tests.patience import PATIENCE_S
from tests.telling import RecordProperty, tell
from tq.v1 import task_pb2

pytestmark = pytest.mark.cluster

KILLS = 5
"""In each of the four tests that share the twenty: a kill takes 15 s on a busy machine."""
LEASE_S = 2.0
APART = "apart"


async def judged(load: Load) -> str:
    """Finish the run; what is wrong with it, in words. Empty: nothing."""
    violations = await load.finish()
    wrong = [f"wrong result: {task_id}" for task_id in sorted(wrong_results(load.ledger))]
    return "\n".join(filter(None, [report(load.ledger, violations), *wrong]))


async def kill_leader(load: Load) -> tuple[str, Outage]:
    """SIGKILL the leader and wait until a new one acknowledges a write."""
    leader = await load.cluster.await_leader(within_s=PATIENCE_S)
    killed_s = load.ledger.now_s()
    await load.cluster.crash(leader.node_id)
    await load.await_acknowledgement(since_s=killed_s, within_s=PATIENCE_S)
    measured = outage(load.ledger, killed_s)
    assert measured is not None
    return leader.node_id, measured


@pytest.mark.parametrize("part", range(4))
async def test_twenty_killed_leaders_lose_nothing_and_double_nothing(
    cluster: ProcessCluster, record_property: RecordProperty, part: int
) -> None:
    outages = []
    async with Load(cluster, lease_s=LEASE_S) as load:
        await load.await_under_way()
        for _ in range(KILLS):
            killed, measured = await kill_leader(load)
            outages.append(measured)
            cluster.restart(killed)
            await cluster.await_caught_up([killed], within_s=PATIENCE_S)
        wrong = await judged(load)
    tell(
        record_property,
        f"part {part}, {KILLS} SIGKILLs of the leader: {summary(outages)}\n{load.describe()}",
    )

    assert wrong == ""


async def test_two_of_three_killed_stop_writes_and_lose_nothing(
    cluster: ProcessCluster, record_property: RecordProperty
) -> None:
    async with Load(cluster, lease_s=LEASE_S) as load:
        await load.await_under_way()
        leader = await cluster.await_leader(within_s=PATIENCE_S)
        follower = next(node_id for node_id in cluster.brokers if node_id != leader.node_id)

        killed_s = load.ledger.now_s()
        cluster.kill(leader.node_id, follower)
        await load.await_silence(since_s=killed_s, within_s=PATIENCE_S)
        alone = outage(load.ledger, killed_s)
        cluster.restart(leader.node_id, follower)
        await load.await_acknowledgement(since_s=killed_s, within_s=PATIENCE_S)
        await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
        wrong = await judged(load)
    tell(record_property, f"two of three killed and restarted:\n{load.describe()}")

    assert alone is None, "a write was acknowledged without a majority"
    assert wrong == ""


async def test_all_three_killed_at_once_come_back_with_everything(
    cluster: ProcessCluster, record_property: RecordProperty
) -> None:
    async with Load(cluster, lease_s=LEASE_S) as load:
        await load.await_under_way()

        killed_s = load.ledger.now_s()
        cluster.kill(*cluster.brokers)
        cluster.restart(*cluster.brokers)
        await load.await_acknowledgement(since_s=killed_s, within_s=PATIENCE_S)
        await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
        wrong = await judged(load)
    tell(record_property, f"all three killed at once and restarted:\n{load.describe()}")

    assert wrong == ""


async def test_a_leader_paused_past_the_leases_wakes_up_and_decides_nothing(
    cluster: ProcessCluster, record_property: RecordProperty
) -> None:
    async with Load(cluster, lease_s=LEASE_S) as load:
        await load.await_under_way()
        leader = await cluster.await_leader(within_s=PATIENCE_S)
        old_leader = [cluster.brokers[leader.node_id].address]
        silent = worker(load, "silent", old_leader, lease_s=LEASE_S)
        heir = worker(load, "heir", cluster.addresses, lease_s=30)
        reader = StubClient(old_leader, load.ledger, "reader")
        task_id = await submit_apart(load)
        held = await silent.claim_one(within_s=PATIENCE_S)
        await reader.read(task_id)

        paused_s = load.ledger.now_s()
        cluster.pause(leader.node_id)
        await load.await_acknowledgement(since_s=paused_s, within_s=PATIENCE_S)
        measured = outage(load.ledger, paused_s)
        inherited = await heir.claim_one(within_s=PATIENCE_S)
        # These wait in the paused leader's sockets and are the first that it sees when it wakes.
        waiting = [asyncio.create_task(reader.read(task_id)) for _ in range(10)]
        late = asyncio.create_task(silent.report(task_id, held.token, Ending.COMPLETE, b"too late"))
        await load.client.read(task_id)
        cluster.resume(leader.node_id)
        reads = await asyncio.gather(*waiting)
        refused = await late
        right = work_result(inherited.spec)
        recorded = await heir.report(task_id, inherited.token, Ending.COMPLETE, right)
        await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
        wrong = await judged(load)
        for caller in (silent, heir, reader):
            await caller.close()
    assert measured is not None
    tell(
        record_property, f"leader paused past the leases: {summary([measured])}\n{load.describe()}"
    )

    assert inherited.token > held.token
    assert {read.attempts[-1].token for read in reads if read} == {inherited.token}
    assert refused.status == ReportStatus.STATUS_LEASE_LOST
    assert recorded.status == ReportStatus.STATUS_RECORDED
    assert wrong == ""


def worker(load: Load, name: str, addresses: list[str], *, lease_s: float) -> StubWorker:
    """Make a worker on a queue that the load leaves alone."""
    return StubWorker(addresses, load.ledger, name, APART, lease_s=lease_s)


async def submit_apart(load: Load) -> str:
    """Submit one task to that queue."""
    spec = task_pb2.TaskSpec(queue=APART, type="planned", payload=Plan().payload("apart"))
    [task_id] = await load.client.submit([spec])
    assert task_id is not None
    return task_id
