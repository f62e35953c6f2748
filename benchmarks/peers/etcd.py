"""etcd: three members; a task is a key. Not a task queue, but the same Raft work for a submit.

Requests are protobuf bytes built by hand: etcd's protos are not in this project, and its JSON
gateway is another hop. So this client does less work than generated stubs would.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import grpc

from benchmarks.peers.processes import START_S, Servers, need
from benchmarks.peers.session import PAYLOAD, TO_DONE_S, SubmitsOnly
from chaos.cluster.ports import free_addresses

MEMBERS = 3

Call: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"


def varint(number: int) -> bytes:
    """Encode a number as protobuf does."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field(number: int, value: bytes) -> bytes:
    """Encode a field of bytes."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def put(key: bytes, value: bytes) -> bytes:
    """Encode a PutRequest."""
    return field(1, key) + field(2, value)


def transaction(puts: list[bytes]) -> bytes:
    """Encode a TxnRequest that puts without a condition: `success` of `RequestOp.request_put`."""
    return b"".join(field(2, field(2, each)) for each in puts)


def numbers(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Decode the fields of a message that are numbers or have a length."""
    at = 0

    def read() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = read()
        if tag & 7 == 0:
            yield tag >> 3, read()
        else:
            size = read()
            yield tag >> 3, message[at : at + size]
            at += size


class EtcdSession(SubmitsOnly):
    """A channel to the leader."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._put: Call = channel.unary_unary("/etcdserverpb.KV/Put")
        self._transact: Call = channel.unary_unary("/etcdserverpb.KV/Txn")
        self._numbers = itertools.count()

    async def submit(self, queue: str) -> None:
        await self._put(put(self._key(queue), PAYLOAD), timeout=TO_DONE_S)

    async def submit_many(self, queue: str, tasks: int) -> None:
        puts = [put(self._key(queue), PAYLOAD) for _ in range(tasks)]
        await self._transact(transaction(puts), timeout=TO_DONE_S)

    def _key(self, queue: str) -> bytes:
        return f"{queue}/{next(self._numbers):012}".encode()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[EtcdSession]:
    """Start three members, and connect to their leader."""
    addresses = free_addresses(2 * MEMBERS)
    clients, peers = addresses[:MEMBERS], addresses[MEMBERS:]
    members = ",".join(f"m{number}=http://{peer}" for number, peer in enumerate(peers))
    with Servers(folder) as servers:
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            options = {
                "name": f"m{number}",
                "data-dir": str(folder / f"m{number}"),
                "listen-client-urls": f"http://{client}",
                "advertise-client-urls": f"http://{client}",
                "listen-peer-urls": f"http://{peer}",
                "initial-advertise-peer-urls": f"http://{peer}",
                "initial-cluster": members,
                "initial-cluster-state": "new",
                "quota-backend-bytes": str(4 << 30),
            }
            command = [need("etcd"), *(f"--{name}={value}" for name, value in options.items())]
            servers.start(f"m{number}", command)
        for server, address in zip(servers.servers, clients, strict=True):
            servers.await_address(server, address)
        address = await _leader(clients)
        async with grpc.aio.insecure_channel(address) as channel:
            yield EtcdSession(channel)


async def _leader(addresses: list[str]) -> str:
    """Ask each member for its own id and the leader's, until one is the leader."""
    async with asyncio.timeout(START_S):
        while True:
            for address in addresses:
                async with grpc.aio.insecure_channel(address) as channel:
                    ask: Call = channel.unary_unary("/etcdserverpb.Maintenance/Status")
                    try:
                        status = dict(numbers(await ask(b"", timeout=2)))
                    except grpc.aio.AioRpcError:
                        continue
                header = status.get(1)
                own = dict(numbers(header)).get(2) if isinstance(header, bytes) else None
                if own is not None and status.get(4) == own:
                    return address
            await asyncio.sleep(0.1)
