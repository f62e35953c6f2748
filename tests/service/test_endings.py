"""A call that is over leaves nothing behind, however it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import grpc
import grpc.aio
import pytest

from tests.circles import left_for_the_collector
from tests.patience import PATIENCE_S
from tests.service.fakes import Node, cluster_of, stubs_of, until
from tq.v1 import errors_pb2, task_service_pb2, task_service_pb2_grpc, worker_service_pb2
from tq_cluster.core.model.operations import Outcome, Refused
from tq_cluster.service.call import Header
from tq_cluster.service.server import calls_ended

CALLS = 20
OF_A_CALL = {"RPCState", "_ServicerContext", "Held", "Call", "CallError", "AbortError"}
OF_A_FORWARDED_CALL = {
    "RPCState",
    "_ServicerContext",
    "Held",
    "Call",
    "BrokenError",
    "UnaryStreamCall",
}


async def refused() -> Outcome:
    return Refused(reason=errors_pb2.ERROR_REASON_NOT_FOUND, message="there is no such task")


async def forever() -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


async def refused_late() -> Outcome:
    await asyncio.sleep(0.05)
    return await refused()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "principal", "timeout_s"),
    [
        pytest.param(None, "", 10.0, id="answered"),
        pytest.param(refused, "", 10.0, id="refused by the leader"),
        pytest.param(refused, "a node's", 10.0, id="refused by the node"),
        pytest.param(refused_late, "", 10.0, id="refused after a while"),
        pytest.param(forever, "", 0.1, id="out of time"),
    ],
)
async def test_a_call_is_freed_without_the_garbage_collector(
    answer: Callable[[], Awaitable[Outcome]] | None, principal: str, timeout_s: float
) -> None:
    async with cluster_of("n1", announced=True) as cluster:
        cluster.elect("n1", 1)
        node: Node = cluster["n1"]
        node.leader.answer = answer
        async with grpc.aio.insecure_channel(node.address) as channel:
            stub = task_service_pb2_grpc.TaskServiceStub(channel)

            async def call() -> None:
                request = task_service_pb2.WaitTaskRequest(task_id="t")
                metadata = ((Header.PRINCIPAL, principal),) if principal else ()
                with suppress(grpc.aio.AioRpcError):
                    await stub.WaitTask(request, timeout=timeout_s, metadata=metadata)

            await call()
            with left_for_the_collector() as left:
                await asyncio.gather(*(call() for _ in range(CALLS)))
                await until(lambda: node.service.calls == 0, "no call is held")
                await calls_ended()

    assert not OF_A_CALL & left.keys(), left


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_a_refused_request_to_one_of_grpcs_own_services_is_freed_with_its_bytes(
    path: str,
) -> None:
    """With 12 MiB each, some ten refused requests were the most memory that a broker may take."""
    async with (
        cluster_of("n1") as cluster,
        grpc.aio.insecure_channel(cluster["n1"].address) as channel,
    ):
        stub: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)

        async def call() -> None:
            call = stub(iter([bytes(1 << 20)]), timeout=PATIENCE_S)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                [_ async for _ in call]
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT

        await call()
        with left_for_the_collector() as left:
            await asyncio.gather(*(call() for _ in range(CALLS)))
            await calls_ended()

    assert not OF_A_CALL & left.keys(), left


@pytest.mark.slow
@pytest.mark.parametrize("leaves", [False, True], ids=["out of time", "its caller leaves"])
@pytest.mark.parametrize("name", ["WaitTask", "Claim", "Submit"])
async def test_a_forwarded_call_ends_at_the_leader_and_is_freed_by_both(
    name: str, leaves: bool
) -> None:
    request = {
        "WaitTask": task_service_pb2.WaitTaskRequest(task_id="t"),
        "Claim": worker_service_pb2.ClaimRequest(queues=["q"], worker_id="w", max_tasks=1),
        "Submit": task_service_pb2.SubmitRequest(request_id="r"),
    }[name]
    async with cluster_of("n1", "n2", announced=True) as cluster:
        cluster.elect("n1", 1)
        leader = cluster["n1"].leader
        leader.answer = forever
        services = [node.service for node in cluster.nodes.values()]
        async with stubs_of(cluster["n2"]) as stubs:

            async def call(calls: int) -> None:
                within_s = PATIENCE_S if leaves else 0.5
                while not await all_arrive(calls, within_s):
                    within_s *= 2  # this machine takes longer to deliver them

            async def all_arrive(calls: int, within_s: float) -> bool:
                """Whether all calls were at the leader before they ended."""
                before = len(leader.asked)
                method = getattr(stubs.worker if name == "Claim" else stubs.tasks, name)
                sent = [method(request, timeout=within_s) for _ in range(calls)]
                ended = [asyncio.ensure_future(each.code()) for each in sent]
                if leaves:
                    await until(
                        lambda: len(leader.asked) == before + calls, f"the leader has {calls}"
                    )
                    for each in sent:
                        each.cancel()
                await asyncio.gather(*ended)
                await until(
                    lambda: all(service.calls == 0 for service in services),
                    f"none is held: {[service.calls for service in services]}",
                )
                await calls_ended()
                return len(leader.asked) == before + calls

            await call(1)
            with left_for_the_collector() as left:
                await call(CALLS)

    assert leader.cancelled == len(leader.asked) >= 1 + CALLS
    assert not OF_A_FORWARDED_CALL & left.keys(), left
