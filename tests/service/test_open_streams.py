"""Streams that stay open: health and reflection have so many, and none that its caller leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.patience import PATIENCE_S
from tests.service.fakes import cluster_of, stubs_of, until
from tq_cluster.service import health, intake, reflecting, standard
from tq_cluster.service.health import HealthServicer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
QUESTION: Any = reflection_pb2.ServerReflectionRequest(list_services="")


class AbortedError(Exception):
    """The call was answered with an error."""


class Watcher:
    """A caller that watches, and reads or not."""

    def __init__(self, servicer: HealthServicer, *, reads: bool) -> None:
        self.read: list[int] = []
        self.code: grpc.StatusCode | None = None
        self._reads = reads
        request = health_pb2.HealthCheckRequest(service="s")
        self.watching = asyncio.create_task(servicer.Watch(request, self))

    async def write(self, reply: health_pb2.HealthCheckResponse) -> None:
        if not self._reads:
            await asyncio.Event().wait()
        self.read.append(reply.status)

    async def abort(self, code: grpc.StatusCode, _details: str) -> None:
        self.code = code
        raise AbortedError


async def test_a_watcher_that_does_not_read_holds_up_no_change_and_no_other_watcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "READ_S", 0.1)
    servicer = HealthServicer()
    servicer.set("s", SERVING)
    deaf, other = Watcher(servicer, reads=False), Watcher(servicer, reads=True)
    await until(lambda: other.read == [SERVING], "the other is told")

    servicer.set("s", NOT_SERVING)

    await until(lambda: other.read == [SERVING, NOT_SERVING], "and told what changed")
    with pytest.raises(AbortedError):
        await deaf.watching
    assert deaf.code is grpc.StatusCode.DEADLINE_EXCEEDED
    other.watching.cancel()


async def test_one_watcher_too_many_is_refused_and_may_come_when_another_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "WATCHERS_MAX", 2)
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        stub: Any = health_pb2_grpc.HealthStub(stubs.channel)
        request = health_pb2.HealthCheckRequest(service="tq.v1.ClusterService")
        watching = [stub.Watch(request) for _ in range(2)]
        assert [(await each.read()).status for each in watching] == [SERVING, SERVING]

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Watch(request).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        watching[0].cancel()
        servicer = cluster["n1"].service._health.servicer
        await until(lambda: servicer._watchers == 1, "it is forgotten")
        assert (await stub.Watch(request).read()).status == SERVING


async def test_a_stream_of_questions_that_has_none_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reflecting, "IDLE_S", 0.2)
    monkeypatch.setattr(reflecting, "STREAMS_MAX", 2)
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        channel: Any = stubs.channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        silent = [stub.ServerReflectionInfo() for _ in range(2)]
        for each in silent:
            await each.write(QUESTION)
            assert (await each.read()).list_services_response.service

        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ServerReflectionInfo().read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

        for each in silent:
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await each.read()
            assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        answers = stub.ServerReflectionInfo(iter([QUESTION]), timeout=5)
        assert len([each async for each in answers]) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_a_standard_service_takes_a_small_request_only(path: str) -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        asking: Any = stubs.channel.unary_unary(path)
        for request, why in ((bytes(5_000), "5,000 bytes"), (b"\xff", "could not be parsed")):
            with pytest.raises(grpc.aio.AioRpcError, match=why) as caught:
                await asking(request, timeout=5)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.slow
async def test_requests_of_standard_services_are_read_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "YIELDS_EARLY_S", 0.0)

    async def silence() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        check: Any = stubs.channel.stream_unary("/grpc.health.v1.Health/Check")
        slow = [check(silence(), timeout=PATIENCE_S) for _ in range(2 * standard.READS_MAX)]
        answer: Any = stubs.channel.unary_unary("/grpc.health.v1.Health/Check")
        await answer(b"", timeout=PATIENCE_S)  # those that do not come make way for it
        for each in slow:
            each.cancel()
