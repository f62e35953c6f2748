"""Server reflection: few streams at a time, each only while its caller keeps asking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

STREAMS_MAX: Final = 100
IDLE_S: Final = 60.0
"""How long a stream may go without a question, and its caller without reading an answer."""


class ReflectionServicer(reflection_pb2_grpc.ServerReflectionServicer):
    """Answers tools like grpcurl."""

    def __init__(self, service_names: Sequence[str]) -> None:
        self._answers: Any = reflection.aio.ReflectionServicer(service_names)
        self._streams = 0

    async def ServerReflectionInfo(
        self,
        read: Callable[[float], Awaitable[Any]],
        context: Any,  # noqa: ANN401  # the published types know no asyncio context here
    ) -> None:
        """Answer a stream; ``read`` waits for its next question, for so many seconds."""
        if self._streams >= STREAMS_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{STREAMS_MAX} streams are open already"
            )
        self._streams += 1
        try:
            request = await read(IDLE_S)
            while request is not grpc.aio.EOF:
                async for reply in self._answers.ServerReflectionInfo(_only(request), context):
                    async with asyncio.timeout(IDLE_S):
                        await context.write(reply)
                request = await read(IDLE_S)
        except TimeoutError:
            pass
        else:
            return
        finally:
            self._streams -= 1
        await context.abort(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was asked or read for {IDLE_S:g} s"
        )


async def _only(
    request: reflection_pb2.ServerReflectionRequest,
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    yield request
