"""Calls beyond every limit: the cost of a refusal must not grow with the content of the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache

from chaos.abuse.target import Target, call, connection, together

CALL_S = 30.0
MEGABYTES = (1, 11, 11, 31)
"""Just under what the wire takes costs most: it is read whole before it can be refused."""
AT_ONCE = 6
PAUSE_S = 0.2
KEPT = 16


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


def _repeated(part: bytes, size: int) -> bytes:
    return part * (size // len(part))


_NAMES = b"".join(field(2, b"%06d" % number) for number in range(1_000))
_LABELS = b"".join(field(11, field(1, b"%07d" % number)) for number in range(1_000))
_TASK = field(2, b"abuse") + field(3, b"t")
KINDS: Mapping[str, Callable[[int], bytes]] = {
    "/tq.v1.TaskService/Submit empty tasks": lambda size: _repeated(field(3, b""), size),
    "/tq.v1.TaskService/Submit one payload": lambda size: field(3, _TASK + field(4, bytes(size))),
    "/tq.v1.TaskService/Submit labels": lambda size: field(3, _TASK + _repeated(_LABELS, size)),
    "/tq.v1.TaskService/ListTasks states": lambda size: field(2, b"\x08" * size),
    "/tq.v1.WorkerService/Claim queues": lambda size: field(1, b"w") + _repeated(_NAMES, size),
    "/tq.v1.WorkerService/Heartbeat leases": lambda size: (
        field(1, b"w") + _repeated(field(2, b""), size)
    ),
    "/tq.v1.WorkerService/Report reports": lambda size: (
        field(1, b"w") + _repeated(field(2, b""), size)
    ),
    "/tq.v1.QueueService/Redrive names": lambda size: _repeated(field(1, b""), size),
    "/tq.v1.TaskService/GetTask unknown field": lambda size: field(500, bytes(size)),
    "/tq.v1.QueueService/PurgeQueue cut short": lambda size: field(1, bytes(size))[:-1],
    "/grpc.health.v1.Health/Check name": lambda size: field(1, bytes(size)),
    "/grpc.health.v1.Health/Watch name": lambda size: field(1, bytes(size)),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo name": lambda size: field(
        3, bytes(size)
    ),
}
"""The giants by path and kind; each makes a request of about so many bytes."""


@lru_cache(maxsize=KEPT)
def request(kind: str, size: int) -> bytes:
    """Return a giant; to make one takes longer than to send it."""
    return KINDS[kind](size)


async def giants(target: Target) -> None:
    """Send giants of every kind to every broker, several at once, one size after the other."""

    async def send(address: str) -> None:
        while True:
            kind = target.draw.choice(sorted(KINDS))
            raw = request(kind, target.draw.choice(MEGABYTES) << 20)
            target.under_way()
            async with connection(address) as channel:
                path = kind.split(" ", 1)[0]
                await asyncio.gather(*(call(channel, path, raw, CALL_S) for _ in range(AT_ONCE)))
            await asyncio.sleep(PAUSE_S)

    await together([send(address) for address in target.api])
