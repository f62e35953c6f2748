"""Three real nodes, real sockets and disks, one process: the whole path of a task through stubs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.service.fakes import fails, until
from tests.service.trio import trio
from tq.v1 import cluster_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.raft.log_api import Role
from tq_cluster.storage.rows import CorruptRowError

STATUS = cluster_service_pb2.GetClusterStatusRequest()


def submit(request_id: str, *payloads: bytes) -> task_service_pb2.SubmitRequest:
    request = task_service_pb2.SubmitRequest(request_id=request_id)
    for payload in payloads:
        request.tasks.add(queue="images", type="resize", payload=payload)
    return request


def claim(request_id: str, wait_s: int = 0) -> worker_service_pb2.ClaimRequest:
    request = worker_service_pb2.ClaimRequest(
        worker_id="w1", queues=["images"], max_tasks=10, request_id=request_id
    )
    request.wait.FromSeconds(wait_s)
    return request


@pytest.mark.slow
async def test_a_task_submitted_at_a_follower_is_claimed_run_and_read_at_others(
    tmp_path: Path,
) -> None:
    async with trio(tmp_path) as nodes:
        leader_id = await nodes.await_leader()
        first, second = (name for name in nodes.nodes if name != leader_id)
        async with nodes.stubs(first) as one, nodes.stubs(second) as two:
            submitted = await one.tasks.Submit(submit("s1", b"cat.png"), timeout=PATIENCE_S)
            task_id = submitted.results[0].task.task_id
            claimed = await two.worker.Claim(claim("c1"), timeout=PATIENCE_S)
            [task] = claimed.tasks
            beat = worker_service_pb2.HeartbeatRequest(worker_id="w1")
            beat.leases.add(task_id=task_id, token=task.token)
            renewed = await one.worker.Heartbeat(beat, timeout=PATIENCE_S)
            report = worker_service_pb2.ReportRequest(worker_id="w1")
            report.reports.add(task_id=task_id, token=task.token).complete.result = b"done"
            reported = await one.worker.Report(report, timeout=PATIENCE_S)
            read = await two.tasks.GetTask(
                task_service_pb2.GetTaskRequest(task_id=task_id), timeout=PATIENCE_S
            )

    assert (task.spec.task_id, task.spec.payload) == (task_id, b"cat.png")
    assert renewed.results[0].status == worker_service_pb2.HeartbeatResult.STATUS_RENEWED
    assert reported.results[0].status == worker_service_pb2.ReportResult.STATUS_RECORDED
    assert read.task.state == task_pb2.TASK_STATE_COMPLETED
    assert read.task.result == b"done"


@pytest.mark.slow
async def test_a_repeated_submit_creates_its_tasks_once_whichever_node_takes_it(
    tmp_path: Path,
) -> None:
    async with trio(tmp_path) as nodes:
        await nodes.await_leader()
        answers = []
        for node_id in nodes.nodes:
            async with nodes.stubs(node_id) as stubs:
                answers.append(
                    await stubs.tasks.Submit(submit("s1", b"a", b"b"), timeout=PATIENCE_S)
                )

    assert answers[0] == answers[1] == answers[2]
    assert len({result.task.task_id for result in answers[0].results}) == 2


@pytest.mark.slow
async def test_a_waiting_claim_is_answered_by_a_task_submitted_elsewhere(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        leader_id = await nodes.await_leader()
        first, second = (name for name in nodes.nodes if name != leader_id)
        async with nodes.stubs(first) as one, nodes.stubs(second) as two:
            waiting = asyncio.ensure_future(one.worker.Claim(claim("c1", 30), timeout=40))
            await until(lambda: nodes.nodes[leader_id].service.calls == 1, "the claim waits")
            loop = asyncio.get_running_loop()
            came_s = loop.time()
            await until(lambda: loop.time() - came_s > 0.005, "it has waited for some milliseconds")
            await two.tasks.Submit(submit("s1", b"late"), timeout=PATIENCE_S)
            claimed = await waiting

    assert [task.spec.payload for task in claimed.tasks] == [b"late"]
    assert claimed.tasks[0].waited.ToMilliseconds() > 0


@pytest.mark.slow
async def test_a_leader_that_stops_hands_over_and_no_call_fails(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        old = await nodes.await_leader()
        other = next(name for name in nodes.nodes if name != old)
        stopped = asyncio.Event()

        async def submit_until_stopped() -> int:
            sent = 0
            async with nodes.stubs(other) as stubs:
                while not stopped.is_set():
                    await stubs.tasks.Submit(submit(f"s{sent}", b"x"), timeout=PATIENCE_S)
                    sent += 1
            return sent

        submitting = asyncio.ensure_future(submit_until_stopped())
        async with nodes.stubs(other) as stubs:
            waiting = asyncio.ensure_future(stubs.worker.Claim(claim("c1", 30), timeout=40))
            await waiting
        await nodes.stop(old)
        new = await nodes.await_leader()
        stopped.set()
        sent = await submitting
        async with nodes.stubs(other) as stubs:
            status = await stubs.cluster.GetClusterStatus(STATUS, timeout=PATIENCE_S)

    assert new != old
    assert sent > 0
    assert status.leader_id == new
    assert [node.node_id for node in status.nodes if not node.reachable] == [old]


async def test_leadership_is_handed_over_before_the_port_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles: list[Role] = []
    async with trio(tmp_path) as nodes:
        old = nodes.nodes[await nodes.await_leader()]
        close = old.service.stop

        async def note_role_and_close() -> None:
            roles.append(old.group.replica.status().role)
            await close()

        monkeypatch.setattr(old.service, "stop", note_role_and_close)
        await nodes.stop(next(name for name, node in nodes.nodes.items() if node is old))

    assert roles == [Role.FOLLOWER]


@pytest.mark.slow
async def test_a_claim_that_waits_at_a_node_that_stops_is_told_to_ask_again(
    tmp_path: Path,
) -> None:
    async with trio(tmp_path) as nodes:
        old = await nodes.await_leader()
        async with nodes.stubs(old) as stubs:
            waiting = asyncio.ensure_future(stubs.worker.Claim(claim("c1", 30), timeout=40))
            await until(lambda: nodes.nodes[old].service.calls == 1, "the claim waits")
            await nodes.stop(old)
            with fails() as failure:
                await waiting

    assert failure.reason in {"NO_LEADER", "OUTCOME_UNKNOWN"}
    assert failure.retry_after_ms is not None


@pytest.mark.slow
async def test_everything_is_there_after_all_nodes_were_stopped_and_started(
    tmp_path: Path,
) -> None:
    async with trio(tmp_path) as nodes:
        await nodes.await_leader()
        async with nodes.stubs("n1") as stubs:
            submitted = await stubs.tasks.Submit(submit("s1", b"kept"), timeout=PATIENCE_S)
        task_id = submitted.results[0].task.task_id
        for node_id in list(nodes.configs):
            await nodes.stop(node_id)
        await asyncio.gather(*(nodes.start(node_id) for node_id in nodes.configs))
        await nodes.await_leader()

        async with nodes.stubs("n2") as stubs:
            read = await stubs.tasks.GetTask(
                task_service_pb2.GetTaskRequest(task_id=task_id), timeout=PATIENCE_S
            )

    assert read.task.spec.payload == b"kept"
    assert read.task.state == task_pb2.TASK_STATE_PENDING


@pytest.mark.slow
async def test_a_local_read_at_a_follower_says_how_old_it_may_be(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        leader_id = await nodes.await_leader()
        follower = next(name for name in nodes.nodes if name != leader_id)
        async with nodes.stubs(follower) as stubs:
            submitted = await stubs.tasks.Submit(submit("s1", b"x"), timeout=PATIENCE_S)
            store = nodes.nodes[follower].group.store
            applied = nodes.nodes[leader_id].group.replica.status().applied_index
            await until(lambda: store.durable.index >= applied, "the follower has committed")
            read = await stubs.tasks.GetTask(
                task_service_pb2.GetTaskRequest(
                    task_id=submitted.results[0].task.task_id,
                    read_level=task_service_pb2.READ_LEVEL_LOCAL,
                ),
                timeout=PATIENCE_S,
            )

    assert read.task.spec.payload == b"x"
    assert 0 < read.staleness.ToMilliseconds() < 60_000


@pytest.mark.slow
async def test_a_node_whose_state_is_damaged_fills_it_again_and_goes_on(tmp_path: Path) -> None:
    local = task_service_pb2.GetTaskRequest(read_level=task_service_pb2.READ_LEVEL_LOCAL)
    async with trio(tmp_path) as nodes:
        leader_id = await nodes.await_leader()
        hurt = next(name for name in nodes.nodes if name != leader_id)
        async with nodes.stubs(leader_id) as stubs:
            submitted = await stubs.tasks.Submit(submit("s1", b"kept"), timeout=PATIENCE_S)
        local.task_id = submitted.results[0].task.task_id
        state = nodes.nodes[hurt].group.data.states.current.path
        await nodes.stop(hurt)
        (state / "data.mdb").write_bytes(b"not a database" * 1_000)

        await nodes.start(hurt)

        again = nodes.nodes[hurt]
        assert again.group.data.set_aside
        applied = nodes.nodes[leader_id].group.replica.status().applied_index
        await until(lambda: again.group.store.durable.index >= applied, "it has caught up")
        async with nodes.stubs(hurt) as stubs:
            read = await stubs.tasks.GetTask(local, timeout=PATIENCE_S)

    assert read.task.spec.payload == b"kept"
    assert (tmp_path / hurt / f"damaged-{state.name}").is_dir()


@pytest.mark.slow
async def test_a_row_that_fails_its_check_ends_the_node_and_its_state(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        await nodes.await_leader()
        hurt = nodes.nodes["n2"]

        hurt.group.end(CorruptRowError("table 3, key 62: 9 bytes fail their CRC"))
        [error] = nodes.errors
        nodes.errors.clear()
        await nodes.stop("n2")
        await nodes.start("n2")

        assert isinstance(error, CorruptRowError)
        assert nodes.nodes["n2"].group.data.set_aside


async def test_every_node_learns_its_role(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        leader_id = await nodes.await_leader()
        others = [node for name, node in nodes.nodes.items() if name != leader_id]
        await until(
            lambda: all(node.group.replica.status().leader_id == leader_id for node in others),
            "both followers know the leader",
        )
        roles = [node.group.replica.status().role for node in others]

    assert roles == [Role.FOLLOWER, Role.FOLLOWER]
