"""Calls beyond every limit: the cost of a refusal must not grow with the content of the call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from chaos.abuse.target import Target, call, connection, together

CALL_S = 30.0
MEGABYTES = (1, 11, 11, 31)
"""Just under what the wire takes costs most: it is read whole before it can be refused."""
AT_ONCE = 6
PAUSE_S = 0.2


def field(number: int, payload: bytes) -> bytes:
    """One length-delimited field on the wire."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004  # seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def requests(size: int) -> Mapping[str, bytes]:
    """Every kind of giant of about ``size`` bytes, by ``path kind``."""
    empty = size // 2
    names = b"".join(field(2, b"%06d" % number) for number in range(1_000))
    labels = b"".join(field(11, field(1, b"%07d" % number)) for number in range(1_000))
    task = field(2, b"abuse") + field(3, b"t")
    return {
        "/tq.v1.TaskService/Submit empty tasks": field(3, b"") * empty,
        "/tq.v1.TaskService/Submit one payload": field(3, task + field(4, bytes(size))),
        "/tq.v1.TaskService/Submit labels": field(3, task + labels * (size // len(labels))),
        "/tq.v1.TaskService/ListTasks states": field(2, b"\x08" * size),
        "/tq.v1.WorkerService/Claim queues": field(1, b"w") + names * (size // len(names)),
        "/tq.v1.WorkerService/Heartbeat leases": field(1, b"w") + field(2, b"") * empty,
        "/tq.v1.WorkerService/Report reports": field(1, b"w") + field(2, b"") * empty,
        "/tq.v1.QueueService/Redrive names": field(1, b"") * empty,
        "/tq.v1.TaskService/GetTask unknown field": field(500, bytes(size)),
        "/tq.v1.QueueService/PurgeQueue cut short": field(1, bytes(size))[:-1],
        "/grpc.health.v1.Health/Check name": field(1, bytes(size)),
        "/grpc.health.v1.Health/Watch name": field(1, bytes(size)),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo name": field(
            3, bytes(size)
        ),
    }


async def giants(target: Target) -> None:
    """Send giants of every kind to every broker, several at once, one size after the other."""

    async def send(address: str) -> None:
        while True:
            kinds = requests(target.draw.choice(MEGABYTES) << 20)
            name = target.draw.choice(sorted(kinds))
            target.under_way()
            async with connection(address) as channel:
                path = name.split(" ", 1)[0]
                await asyncio.gather(
                    *(call(channel, path, kinds[name], CALL_S) for _ in range(AT_ONCE))
                )
            await asyncio.sleep(PAUSE_S)

    await together([send(address) for address in target.api])
