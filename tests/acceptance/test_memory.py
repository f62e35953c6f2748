"""Callers that ask for much, or send much, take a bounded part of a broker's memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from benchmarks.cluster import anonymous_bytes
from chaos.cluster.processes import ProcessCluster
from tests.patience import PATIENCE_S
from tq.v1 import task_pb2, task_service_pb2

pytestmark = pytest.mark.cluster

MIB = 1 << 20
LARGE = "large"
PAYLOAD_BYTES = 4 * MIB
CALLERS = 120
"""Together their answers are 480 MiB."""
HELD_MB_MAX = 300
"""Beyond what a broker takes anyway. What it holds for callers is counted up to about 200."""
# A caller whose window is small takes nothing in that it does not read.
DEAF = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1_024),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


@asynccontextmanager
async def measured(cluster: ProcessCluster) -> AsyncIterator[dict[str, float]]:
    """The most that each broker takes meanwhile beyond what it took before, in MB."""
    pids = {name: broker.pid for name, broker in cluster.brokers.items()}
    before = {name: anonymous_bytes(pid) / 1e6 for name, pid in pids.items() if pid is not None}
    most = dict.fromkeys(before, 0.0)

    async def look() -> None:
        while True:
            for name, pid in pids.items():
                if pid is not None:
                    most[name] = max(most[name], anonymous_bytes(pid) / 1e6 - before[name])
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    try:
        yield most
    finally:
        looking.cancel()


async def submit_large(channel: aio.Channel) -> None:
    spec = task_pb2.TaskSpec(task_id=LARGE, queue="none", type="noop", payload=bytes(PAYLOAD_BYTES))
    request = task_service_pb2.SubmitRequest(request_id=LARGE, tasks=[spec])
    submit: Any = channel.unary_unary("/tq.v1.TaskService/Submit")
    await submit(request.SerializeToString(), timeout=PATIENCE_S)


async def codes_of(calls: Sequence[Any]) -> Counter[str]:
    """How the calls ended; those that have not are let go."""
    codes: Counter[str] = Counter()
    for call in calls:
        if call.done():
            codes[(await call.code()).name] += 1
        else:
            codes["open"] += 1
            call.cancel()
    return codes


async def one_that_leads_and_one_that_does_not(cluster: ProcessCluster) -> list[str]:
    leader = (await cluster.await_leader(within_s=PATIENCE_S)).node_id
    return [leader, next(name for name in cluster.brokers if name != leader)]


async def test_answers_that_nobody_reads_are_held_for_a_few_and_refused_to_the_others(
    cluster: ProcessCluster,
) -> None:
    asked = await one_that_leads_and_one_that_does_not(cluster)
    await submit_large(cluster.channel(asked[0]))
    get = task_service_pb2.GetTaskRequest(task_id=LARGE).SerializeToString()
    for name in asked:
        async with (
            aio.insecure_channel(cluster.brokers[name].address, options=DEAF) as channel,
            measured(cluster) as most,
        ):
            read: Any = channel.unary_stream("/tq.v1.TaskService/GetTask")
            calls = [read(get, timeout=PATIENCE_S) for _ in range(CALLERS)]
            async with asyncio.timeout(50):
                while sum(call.done() for call in calls) < CALLERS * 3 // 4:  # noqa: ASYNC110  # of many
                    await asyncio.sleep(0.05)
            codes = await codes_of(calls)

        assert codes["RESOURCE_EXHAUSTED"] >= CALLERS // 2, codes
        assert max(most.values()) < HELD_MB_MAX, (name, most)


async def test_requests_that_are_too_large_are_not_taken_in_and_those_that_are_large_in_turn(
    cluster: ProcessCluster,
) -> None:
    for name in await one_that_leads_and_one_that_does_not(cluster):
        async with measured(cluster) as most:
            channels = [
                aio.insecure_channel(cluster.brokers[name].address, options=DEAF) for _ in range(40)
            ]
            submits: list[Any] = [
                channel.unary_unary("/tq.v1.TaskService/Submit") for channel in channels
            ]
            calls = [submit(bytes(30 * MIB), timeout=PATIENCE_S) for submit in submits]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            for channel in channels:
                await channel.close()

        assert all(isinstance(each, aio.AioRpcError) for each in ended)
        assert max(most.values()) < HELD_MB_MAX, (name, most)


async def test_calls_that_wait_for_a_task_hold_none_of_it(cluster: ProcessCluster) -> None:
    [leader, _] = await one_that_leads_and_one_that_does_not(cluster)
    await submit_large(cluster.channel(leader))
    wait = task_service_pb2.WaitTaskRequest(task_id=LARGE)
    wait.wait.FromSeconds(3)
    async with (
        aio.insecure_channel(cluster.brokers[leader].address, options=DEAF) as channel,
        measured(cluster) as most,
    ):
        waiting: Any = channel.unary_unary("/tq.v1.TaskService/WaitTask")
        calls = [waiting(wait.SerializeToString(), timeout=PATIENCE_S) for _ in range(CALLERS)]
        ended = await asyncio.gather(*calls, return_exceptions=True)

    answered = [each for each in ended if isinstance(each, bytes)]
    refused = [each for each in ended if isinstance(each, aio.AioRpcError)]
    assert len(answered) + len(refused) == CALLERS
    assert answered
    assert {each.code() for each in refused} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert max(most.values()) < HELD_MB_MAX, most
