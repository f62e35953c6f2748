"""A node honours deadlines: waiting ends in time, and it drops work that no caller waits for."""

from __future__ import annotations

import asyncio

import pytest

from tests.patience import PATIENCE_S
from tests.service.fakes import answered_after, cluster_of, fails, stubs_of, until
from tq.v1 import task_service_pb2, worker_service_pb2
from tq_cluster.core.model.operations import Outcome, Submit
from tq_cluster.service.call import certain_s, margin_s

SUBMIT = task_service_pb2.SubmitRequest()


def claim(wait_s: float | None) -> worker_service_pb2.ClaimRequest:
    request = worker_service_pb2.ClaimRequest(worker_id="w", queues=["q"], max_tasks=1)
    if wait_s is not None:
        request.wait.FromMilliseconds(int(wait_s * 1000))
    return request


async def never() -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("remaining_s", "margin"), [(0.1, 0.01), (1.0, 0.1), (2.0, 0.2), (60.0, 0.2)]
)
def test_an_answer_leaves_a_tenth_of_the_time_and_at_most_200_ms_before_the_deadline(
    remaining_s: float, margin: float
) -> None:
    assert margin_s(remaining_s) == pytest.approx(margin)


@pytest.mark.parametrize(
    ("timeout_s", "on_the_wire_s"),
    [(0.5, 0.501), (5, 5.01), (30, 30.1), (60, 60.1), (300, 301)],
)
def test_what_grpc_adds_to_a_timeout_on_the_wire_is_not_counted_on(
    timeout_s: float, on_the_wire_s: float
) -> None:
    assert 0.98 * timeout_s <= certain_s(on_the_wire_s) <= timeout_s + 1e-9


@pytest.mark.parametrize("through", ["n1", "n2"])
async def test_what_a_caller_gave_up_is_cancelled_at_the_leader(through: str) -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster[through]) as stubs:
        cluster.elect("n1", 1)
        leader = cluster["n1"].leader
        leader.answer = never
        calling = asyncio.ensure_future(stubs.tasks.Submit(SUBMIT, timeout=20))
        await leader.arrived.wait()

        calling.cancel()

        await until(lambda: leader.cancelled == 1, "the operation is cancelled")
        await until(lambda: cluster[through].service.calls == 0, "the call is let go")


async def test_a_claim_waits_as_long_as_it_asks() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        for wait_s in (None, 50.0):
            await stubs.worker.Claim(claim(wait_s), timeout=PATIENCE_S)

        at_once, long_s = cluster["n1"].leader.waits_s

    assert at_once == 0
    assert 20 < long_s <= 50


async def test_a_long_poll_ends_before_its_deadline_however_long_it_asks_to_wait() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        await stubs.worker.Claim(claim(60), timeout=50)
        await stubs.tasks.WaitTask(task_service_pb2.WaitTaskRequest(task_id="t"), timeout=50)

        claimed_s, waited_s = cluster["n1"].leader.waits_s

    assert 20 < claimed_s < 50
    assert 20 < waited_s < 50


async def test_a_long_poll_without_a_deadline_waits_a_minute_at_most() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        await stubs.tasks.WaitTask(task_service_pb2.WaitTaskRequest(task_id="t"))

        [waited_s] = cluster["n1"].leader.waits_s

    assert 50 < waited_s <= 60


@pytest.mark.slow
async def test_a_write_that_no_majority_answers_is_unknown_before_its_deadline() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n1"].leader.answer = never

        with answered_after(1.0) as timeout_s, fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=timeout_s)

    assert failure.reason == "OUTCOME_UNKNOWN"


@pytest.mark.slow
async def test_a_read_that_no_majority_answers_had_no_leader() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n1"].leader.answer = never

        request = task_service_pb2.WaitTaskRequest(task_id="t")
        with answered_after(1.0) as timeout_s, fails() as failure:
            await stubs.tasks.WaitTask(request, timeout=timeout_s)

    assert failure.reason == "NO_LEADER"


async def test_a_submit_without_a_name_gets_ids_that_no_other_gets() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        await stubs.tasks.Submit(SUBMIT, timeout=5)
        await stubs.tasks.Submit(SUBMIT, timeout=5)

    first, second = cluster["n1"].leader.asked
    assert isinstance(first, Submit)
    assert isinstance(second, Submit)
    assert first.id_seed
    assert first.id_seed != second.id_seed


@pytest.mark.slow
async def test_a_stopping_node_lets_calls_end_and_keeps_nobody_waiting_for_a_leader() -> None:
    gate = asyncio.Event()

    async def slowly() -> Outcome:
        await gate.wait()
        raise AssertionError

    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n1"].leader.answer = never
        held = asyncio.ensure_future(stubs.worker.Claim(claim(60), timeout=60))
        await cluster["n1"].leader.arrived.wait()

        stopping = asyncio.ensure_future(cluster["n2"].service.stop())
        with fails() as failure:
            await held
        await stopping

    assert failure.reason == "OUTCOME_UNKNOWN"
