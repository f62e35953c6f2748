"""Every command against three brokers, whole and hurt."""

from __future__ import annotations

import asyncio

import pytest
from typer.testing import CliRunner

from chaos.cluster.processes import ProcessCluster
from tests.admin.conftest import Ran
from tests.patience import PATIENCE_S
from tq.v1.worker_service_pb2 import ClaimRequest, ReportRequest
from tq_admin.__main__ import app
from tq_admin.observer import Observer
from tq_client import AsyncClient

pytestmark = pytest.mark.cluster

READING = (
    ["list"],
    ["queues", "list"],
    ["queue-depth"],
    ["stats", "--interval", "10ms"],
    ["workers"],
    ["dead-letters", "list"],
)


async def admin(cluster: ProcessCluster, *arguments: str) -> Ran:
    """Run tq-admin beside the test's own loop; no traceback ever leaves it."""
    environment = {"TQ_ADDRESS": ",".join(cluster.addresses)}
    given = ["--timeout", f"{PATIENCE_S:.0f}s", *arguments]
    result = await asyncio.to_thread(
        CliRunner().invoke, app, given, env=environment, catch_exceptions=False
    )
    assert "Traceback" not in result.stderr
    return Ran(result.exit_code, result.stdout, result.stderr)


async def claim_and_fail_one(client: AsyncClient, *, hold: int) -> None:
    """As worker w1, claim, fail the first task for good and keep the others."""
    request = ClaimRequest(worker_id="w1", queues=["q"], max_tasks=1 + hold)
    first = (await client.claim(request)).reply.tasks[0]
    report = ReportRequest(worker_id="w1")
    item = report.reports.add(task_id=first.spec.task_id, token=first.token)
    item.fail.error, item.fail.permanent = "no such image", True
    await client.report(report)


async def test_an_operator_looks_after_queues_workers_and_dead_letters(
    cluster: ProcessCluster,
) -> None:
    for name in ("a", "b", "c", "d"):
        assert (await admin(cluster, "submit", "q", "t", "--id", name)).code == 0
    async with AsyncClient(cluster.addresses) as client:
        await claim_and_fail_one(client, hold=1)

        [worker] = (await admin(cluster, "workers", "-o", "json")).json["workers"]
        shown = await admin(cluster, "dead-letters", "show", "a")
        retried = await admin(cluster, "retry", "a", "-o", "json")
        await claim_and_fail_one(client, hold=0)
        deleted = await admin(cluster, "dead-letters", "delete", "--queue", "q", "--yes")
        purged = await admin(cluster, "purge", "q", "--yes", "-o", "json")
        [stats] = (await admin(cluster, "queues", "list", "-o", "json")).json

    assert (worker["worker_id"], worker["leases"], worker["failed"]) == ("w1", 1, 1)
    assert "no such image" in shown.stdout
    assert retried.json["redriven"] == 1
    assert deleted.code == 0
    # b runs, c failed for good and was deleted; what waited were d and the retried a.
    assert purged.json["cancelled"] == 2
    assert (stats["running"], stats["cancelled"], stats["failed"]) == (1, 2, 0)
    assert (stats["totals"]["submitted"], stats["totals"]["failed"]) == (4, 2)


async def test_with_nodes_down_every_command_answers_or_names_the_next_thing_to_try(
    cluster: ProcessCluster,
) -> None:
    await admin(cluster, "submit", "q", "t")
    leader = await cluster.await_leader(within_s=PATIENCE_S)

    cluster.kill(leader.node_id)
    await cluster.await_leader(within_s=PATIENCE_S, other_than=leader.node_id)
    for command in READING:
        assert (await admin(cluster, *command)).code == 0, command
    status = await admin(cluster, "cluster-status", "--wide", "-o", "json")
    assert [node["node_id"] for node in status.json["nodes"] if not node["reachable"]] == [
        leader.node_id
    ]

    cluster.kill(next(name for name in cluster.brokers if name != leader.node_id))
    for command in READING:
        ran = await admin(cluster, *command, "--timeout", "1s")
        assert ran.code == 3, (command, ran)
        assert "tq-admin cluster-status" in ran.stderr, (command, ran)
    alone = await admin(cluster, "cluster-status")
    assert alone.code == 3
    assert "1 of 3 nodes are reachable" in alone.stderr

    observer = Observer(tuple(cluster.addresses), every_s=1)
    seen = await asyncio.to_thread(observer.observe)
    await asyncio.to_thread(observer.close)
    assert (seen.led, seen.troubles) == (False, ())
    assert seen.reading is not None
    assert [(each.queue, each.pending) for each in seen.reading.queues] == [("q", 1)]
