"""The cluster under abuse, as an abuser sees it: addresses, and raw calls."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from grpc import aio

OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    # Without this, all channels of a process to one address share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_reconnect_backoff_ms", 500),
)
QUEUE = "abuse"
"""Every task of an abuser is in this queue or in one whose name begins with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the brokers listen, in one order."""

    api: Sequence[str]
    raft: Sequence[str]
    metrics: Sequence[str] = ()
    draw: random.Random
    under_way: Callable[[], None]
    """Called once the abuse has begun in earnest."""


@contextlib.asynccontextmanager
async def connection(address: str) -> AsyncIterator[aio.Channel]:
    """A gRPC connection that is not shared."""
    async with aio.insecure_channel(address, options=OPTIONS) as channel:
        yield channel


async def call(channel: aio.Channel, path: str, raw: bytes, timeout_s: float) -> bytes | None:
    """Send raw bytes to a unary method; None if the call failed, as most abuse does."""
    try:
        return await raw_call(channel, path, raw, timeout_s)
    except aio.AioRpcError:
        return None


def raw_call(channel: aio.Channel, path: str, raw: bytes, timeout_s: float) -> Awaitable[bytes]:
    """Begin a unary call with raw bytes."""
    method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    return method(raw, timeout=timeout_s)


async def together(works: Sequence[Awaitable[None]]) -> None:
    """Run all of them at the same time; the first error of the abuser itself ends them."""
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(_whole(work))


async def _whole(work: Awaitable[None]) -> None:
    await work
