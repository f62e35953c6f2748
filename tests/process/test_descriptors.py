"""A broker has descriptors for its own files, however many callers connect."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc.aio
import pytest

from chaos.cluster.broker import NodeSetup
from chaos.cluster.processes import ProcessCluster
from tests.patience import PATIENCE_S
from tests.service.fakes import cluster_of, stubs_of, until
from tq.v1 import cluster_service_pb2, task_pb2, task_service_pb2, task_service_pb2_grpc
from tq_cluster.service import limits
from tq_process import descriptors

RAISE = """
import resource
from tq_process import descriptors
descriptors.raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], descriptors.for_callers())
"""


def raised(limits: str) -> tuple[int, int, str]:
    """The soft limit after it was raised, what callers may have of it, and what was said."""
    done = subprocess.run(
        ["/bin/bash", "-c", f"{limits}; exec {sys.executable} -c '{RAISE}'"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    soft, callers = done.stdout.split()
    return int(soft), int(callers), done.stderr


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    soft, callers, said = raised("ulimit -Sn 1024; ulimit -Hn 4000")
    assert (soft, said) == (4000, "")
    assert 4000 - 512 - 50 < callers <= 4000 - 512


@pytest.mark.parametrize("hard", [64, 256, 1000])
def test_a_low_limit_is_shared_all_the_same_and_said(hard: int) -> None:
    soft, callers, said = raised(f"ulimit -n {hard}")
    assert soft == hard
    assert 16 <= callers <= hard // 2
    assert "few descriptors" in said


async def test_that_callers_have_all_connections_is_said_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(descriptors, "LOOK_S", 0.001)
    counts = iter([30, 129, 130, 130, 130, *([90] * 10_000)])
    looked: list[int] = []

    def count() -> int:
        looked.append(next(counts))
        return looked[-1]

    watch = descriptors.CallersWatch(100, count)
    watch.start()
    await until(lambda: 90 in looked, "it has looked at all")
    watch.stop()

    [line] = caplog.records
    assert line.getMessage() == "connections are refused"
    assert (vars(line)["port"], vars(line)["why"]) == (
        "api",
        "callers have 100 connections already",
    )


@contextmanager
def idle_connections(address: str, count: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing."""
    host, port = address.split(":")
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(count)
        ]


@pytest.mark.slow
async def test_idle_connections_are_ended_and_then_others_have_their_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_MS", 300)
    async with cluster_of("n1", connections_max=4) as cluster:
        cluster.elect("n1", 2)
        with idle_connections(cluster["n1"].address, 20) as idle:
            refused = idle[4:]
            for each in refused:
                each.settimeout(20)
                assert each.recv(1) == b"", "one more than there may be is closed at once"

            async with stubs_of(cluster["n1"]) as stubs:
                request = cluster_service_pb2.GetNodeStatusRequest()
                answer = await stubs.cluster.GetNodeStatus(
                    request, timeout=PATIENCE_S, wait_for_ready=True
                )

        assert answer.node.node_id == "n1"


@pytest.mark.cluster
async def test_a_thousand_idle_connections_do_not_keep_a_broker_from_its_journal(
    tmp_path: Path,
) -> None:
    few = NodeSetup(wrapper=("bash", "-c", 'ulimit -n 700; exec "$@"', "bash"))
    cluster = ProcessCluster(tmp_path, setup=lambda _: few)
    payload = b"x" * (4 << 20)
    try:
        await cluster.start()
        addresses = [broker.address for broker in cluster.brokers.values()]
        async with grpc.aio.insecure_channel(addresses[0]) as channel:
            tasks = task_service_pb2_grpc.TaskServiceStub(channel)
            await tasks.Submit(one_task(b""), timeout=PATIENCE_S)
            with ExitStack() as stack:
                for address in addresses:
                    stack.enter_context(idle_connections(address, 1_000))

                for _ in range(6):  # a segment has 8 MiB
                    await tasks.Submit(one_task(payload), timeout=PATIENCE_S)

                for broker in cluster.brokers.values():
                    journal = broker.data_dir / "journal"
                    await until(
                        lambda journal=journal: len(list(journal.glob("*.log"))) > 1,  # type: ignore[misc]
                        "the journal has another segment",
                    )
        statuses = await cluster.statuses()
    finally:
        await cluster.close()
    assert all("down" not in str(status) for status in statuses.values()), statuses
    assert not any(broker.complaints() for broker in cluster.brokers.values())


@pytest.mark.cluster
async def test_a_broker_that_is_started_again_reaches_a_leader_whose_api_is_full(
    tmp_path: Path,
) -> None:
    few = NodeSetup(settings={"limits": {"connections_max": 16}})
    cluster = ProcessCluster(tmp_path, setup=lambda _: few)
    refused = asyncio.Event()

    async def hold_a_place(address: str) -> None:
        """Take a place at that API, and another whenever it is lost or there is none."""
        host, port = address.split(":")
        while True:
            reader, writer = await asyncio.open_connection(host, int(port))
            with suppress(ConnectionError):
                if not await reader.read(1):
                    refused.set()
                await reader.read()
            writer.close()

    try:
        await cluster.start()
        leader = (await cluster.await_leader(within_s=PATIENCE_S)).node_id
        follower = next(name for name in cluster.brokers if name != leader)
        address = cluster.brokers[leader].address
        holding = [asyncio.create_task(hold_a_place(address)) for _ in range(24)]
        await refused.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            async with grpc.aio.insecure_channel(address) as locked_out:
                await task_service_pb2_grpc.TaskServiceStub(locked_out).Submit(
                    one_task(b""), timeout=1
                )

        cluster.kill(follower)
        cluster.restart(follower)

        async with grpc.aio.insecure_channel(cluster.brokers[follower].address) as channel:
            tasks = task_service_pb2_grpc.TaskServiceStub(channel)
            await tasks.Submit(one_task(b""), timeout=PATIENCE_S, wait_for_ready=True)
        for each in holding:
            each.cancel()
    finally:
        await cluster.close()


def one_task(payload: bytes) -> task_service_pb2.SubmitRequest:
    spec = task_pb2.TaskSpec(queue="q", type="t", payload=payload)
    return task_service_pb2.SubmitRequest(tasks=[spec])
