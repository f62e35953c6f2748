"""The checker is trusted because it reports what a broken broker does, and nothing of a sound one.

The bugs are planted by `mutant_broker.py`; no option gives them to a node that ships.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from grpc.aio import AioRpcError

from chaos.clients.client import StubClient
from chaos.clients.worker import Plan, StubWorker
from chaos.cluster.processes import ProcessCluster
from chaos.history.calls import Ending
from chaos.history.record import Ledger
from chaos.history.verdict import check, report
from chaos.history.violation import Violation
from chaos.run.mutants import BUG_VARIABLE, LAUNCHER
from tests.kill.mutant_broker import NO_CHILDREN_WEIGHED, NO_FSYNC, NO_TOKEN_CHECK
from tests.kill.powercut import ACCOUNTS_VARIABLE, LIE_VARIABLE, lose_unsynced
from tests.patience import PATIENCE_S
from tq.v1 import (
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)

pytestmark = pytest.mark.cluster

QUEUE = "planted"
RECORDED = worker_service_pb2.ReportResult.STATUS_RECORDED


def cluster_with(folder: Path, environment: Mapping[str, str]) -> ProcessCluster:
    """Make a cluster of mutants; without a bug in its environment it is sound."""
    return ProcessCluster(folder, launcher=LAUNCHER, environment=environment)


def spec(salt: object) -> task_pb2.TaskSpec:
    return task_pb2.TaskSpec(queue=QUEUE, type="planned", payload=Plan().payload(f"{salt}"))


async def a_worker_that_reports_too_late(cluster: ProcessCluster) -> tuple[Ledger, list[Violation]]:
    """Let a lease expire and pass on; then let its first holder report before the second."""
    ledger = Ledger(time.monotonic)
    async with AsyncExitStack() as stack:
        client = StubClient(cluster.addresses, ledger, "client")
        silent = StubWorker(cluster.addresses, ledger, "silent", QUEUE, lease_s=1)
        heir = StubWorker(cluster.addresses, ledger, "heir", QUEUE, lease_s=30)
        for caller in (client, silent, heir):
            stack.push_async_callback(caller.close)
        [task_id] = await client.submit([spec("late")])
        assert task_id is not None
        first = await silent.claim_one(within_s=PATIENCE_S)
        second = await heir.claim_one(within_s=PATIENCE_S)
        await silent.report(task_id, first.token, Ending.COMPLETE, b"of the silent one")
        await heir.report(task_id, second.token, Ending.COMPLETE, b"of its heir")
        await client.read(task_id)
        ledger.listed(await client.list_all())
    return ledger, check(ledger)


async def test_a_late_report_is_refused_by_a_sound_broker(tmp_path: Path) -> None:
    async with cluster_with(tmp_path, {}) as cluster:
        ledger, violations = await a_worker_that_reports_too_late(cluster)

    assert report(ledger, violations) == ""


async def test_a_broker_that_checks_no_token_is_caught(tmp_path: Path) -> None:
    async with cluster_with(tmp_path, {BUG_VARIABLE: NO_TOKEN_CHECK}) as cluster:
        ledger, violations = await a_worker_that_reports_too_late(cluster)

    told = report(ledger, violations)
    assert {"I4", "I6"} & {violation.invariant for violation in violations}, told
    assert "report complete with token" in told


async def a_power_cut(
    folder: Path, environment: Mapping[str, str]
) -> tuple[Ledger, list[Violation]]:
    """Submit, cut the power of every node at once, start again, and look for what was submitted."""
    accounts, lie = folder / "accounts", folder / "lie"
    accounts.mkdir()
    ledger = Ledger(time.monotonic)
    given = {ACCOUNTS_VARIABLE: str(accounts), LIE_VARIABLE: str(lie), **environment}
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(cluster_with(folder / "cluster", given))
        client = StubClient(cluster.addresses, ledger, "client")
        stack.push_async_callback(client.close)
        await client.submit([spec("before")])
        lie.touch()
        ids = [task_id for n in range(20) for task_id in await client.submit([spec(n)])]

        cluster.kill(*cluster.brokers)
        lose_unsynced(accounts, [broker.data_dir for broker in cluster.brokers.values()])
        lie.unlink()
        await cluster.start()
        ledger.listed(await client.list_all())
        for task_id in ids:
            assert task_id is not None
            await client.read(task_id)
    return ledger, check(ledger, all_finished=False)


async def test_a_power_cut_takes_nothing_from_brokers_that_sync(tmp_path: Path) -> None:
    ledger, violations = await a_power_cut(tmp_path, {})

    assert report(ledger, violations) == ""


async def test_brokers_that_do_not_sync_are_caught_by_a_power_cut(tmp_path: Path) -> None:
    ledger, violations = await a_power_cut(tmp_path, {BUG_VARIABLE: NO_FSYNC})

    told = report(ledger, violations)
    assert "I1" in {violation.invariant for violation in violations}, told
    assert "was acknowledged and is not found" in told


REPORTS, COMPLETIONS, CHILDREN = 16, 10, 100


async def entries_of_a_storm_of_reports(folder: Path, environment: Mapping[str, str]) -> int:
    """Count the entries that reports make which come at once and create as much as they may."""
    async with cluster_with(folder, environment) as cluster:
        leader = (await cluster.await_leader(within_s=PATIENCE_S)).node_id
        channel = cluster.channel(leader)
        tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
        count = REPORTS * COMPLETIONS
        await tasks.Submit(
            task_service_pb2.SubmitRequest(tasks=[spec("")] * count), timeout=PATIENCE_S
        )
        claim = worker_service_pb2.ClaimRequest(worker_id="w", queues=[QUEUE], max_tasks=count)
        held = list((await workers.Claim(claim, timeout=PATIENCE_S)).tasks)
        assert len(held) == count
        storm = []
        for start in range(0, count, COMPLETIONS):
            report_ = worker_service_pb2.ReportRequest(worker_id="w")
            for task in held[start : start + COMPLETIONS]:
                each = report_.reports.add(task_id=task.spec.task_id, token=task.token)
                each.complete.submit.extend([task_pb2.TaskSpec(queue="c", type="t")] * CHILDREN)
            storm.append(workers.Report(report_, timeout=PATIENCE_S))
        for call in storm:
            assert {each.status for each in (await call).results} == {RECORDED}
        # What an entry finishes is finished at the log time of the entry. The brokers' own entries,
        # which are more on a slow machine, finish nothing.
        finished = set()
        for task in held:
            get = task_service_pb2.GetTaskRequest(task_id=task.spec.task_id)
            found = await tasks.GetTask(get, timeout=PATIENCE_S)
            finished.add(found.task.finished_at.ToNanoseconds())
        return len(finished)


async def test_a_sound_broker_gives_each_storming_report_an_entry_of_its_own(
    tmp_path: Path,
) -> None:
    assert await entries_of_a_storm_of_reports(tmp_path, {}) == REPORTS


async def test_a_broker_that_weighs_no_children_is_caught_by_its_entries(tmp_path: Path) -> None:
    planted = {BUG_VARIABLE: NO_CHILDREN_WEIGHED}

    try:
        entries = await entries_of_a_storm_of_reports(tmp_path, planted)
    except AioRpcError:
        entries = 0  # it stood still for so long that another leads
    assert entries < REPORTS
