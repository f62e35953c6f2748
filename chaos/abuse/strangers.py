"""Strangers and liars on the raft port: garbage, forged greetings, extreme terms."""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from google.protobuf.message import DecodeError

from chaos.abuse.target import Target, together
from tq.internal.v1 import peer_pb2

HEADER = struct.Struct(">BII")
KIND = 0x10
SPEAK_S = 3.0
EACH = 4
"""How many strangers talk to one broker at a time."""
EXTREMES = (0, 1, 2**31, 2**40, 2**53, 2**62 - 1, 2**62, 2**63, 2**64 - 1)
NODES = ("n1", "n2", "n3", "", "x" * 100_000, "\x1b[31mforged\n2026 critical forged=1")


def frame(message: peer_pb2.PeerMessage) -> bytes:
    """One message as peers frame it."""
    payload = message.SerializeToString()
    return HEADER.pack(KIND, len(payload), zlib.crc32(payload, KIND)) + payload


async def strangers(target: Target) -> None:
    """Send every broker messages that a peer could send, and messages that no peer could."""

    async def talk(address: str) -> None:
        host, _, port = address.rpartition(":")
        heard: list[peer_pb2.Hello] = []
        while True:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(SPEAK_S):
                    reader, writer = await asyncio.open_connection(host, int(port))
                    try:
                        for part in _speech(target.draw, heard):
                            writer.write(part)
                            await writer.drain()
                        writer.write_eof()
                        await _listen(reader, heard)
                    finally:
                        writer.transport.abort()
            target.under_way()
            await asyncio.sleep(target.draw.uniform(0.05, 0.2))

    await together([talk(address) for address in target.raft for _ in range(EACH)])


async def _listen(reader: asyncio.StreamReader, heard: list[peer_pb2.Hello]) -> None:
    """Collect a broker's greetings: they help to forge better ones."""
    while True:
        head = await reader.readexactly(HEADER.size)
        _, length, _ = HEADER.unpack(head)
        payload = await reader.readexactly(min(length, 1 << 20))
        with suppress(DecodeError):
            message = peer_pb2.PeerMessage.FromString(payload)
            if message.HasField("hello"):
                heard[:] = [message.hello, *heard][:8]


def _speech(draw: random.Random, heard: list[peer_pb2.Hello]) -> Iterator[bytes]:
    kind = draw.randrange(4)
    if kind == 0:
        yield draw.randbytes(draw.choice((1, 9, 100, 70_000)))
        return
    if kind == 1:  # a frame that says it is longer than anything
        yield HEADER.pack(KIND, draw.choice((2**31, 2**32 - 1)), 0) + draw.randbytes(1_000)
        return
    yield frame(peer_pb2.PeerMessage(hello=_greeting(draw, heard)))
    for _ in range(draw.randrange(1, 4)):
        yield frame(_message(draw))


def _greeting(draw: random.Random, heard: list[peer_pb2.Hello]) -> peer_pb2.Hello:
    hello = peer_pb2.Hello(format=1, cluster_version=draw.choice((1, 2, 3, 2**32 - 1)))
    if heard:
        hello.CopyFrom(draw.choice(heard))
        # The best forgery: one member speaks to another with everything that is known.
        hello.node_id = draw.choice(["n1", "n2", "n3"])
        hello.incarnation = hello.incarnations.get(hello.node_id, hello.incarnation)
    if draw.random() < 0.5:  # noqa: PLR2004  # every other one is spoilt somewhere
        hello.node_id = draw.choice(NODES)
        hello.incarnation = draw.choice(("", "zz", hello.incarnation))
        hello.cluster_id = draw.choice(("", "zz", hello.cluster_id))
        hello.wall_ms = draw.choice((2**63 - 1, -(2**63), 0))
        hello.applied_index = draw.choice(EXTREMES)
    return hello


def _message(draw: random.Random) -> peer_pb2.PeerMessage:
    term, index = draw.choice(EXTREMES), draw.choice(EXTREMES)
    entry = peer_pb2.LogEntry(term=term, command=b"\x00" * draw.choice((0, 1, 1_000)))
    return draw.choice(
        [
            peer_pb2.PeerMessage(term_notice=peer_pb2.TermNotice(term=term)),
            peer_pb2.PeerMessage(vote_request=peer_pb2.VoteRequest(term=term, last_index=index)),
            peer_pb2.PeerMessage(
                pre_vote_request=peer_pb2.PreVoteRequest(attempt=1, term=term, last_index=index)
            ),
            peer_pb2.PeerMessage(
                append=peer_pb2.Append(
                    term=term, prev_index=index, prev_term=term, entries=[entry], commit_index=index
                )
            ),
            peer_pb2.PeerMessage(timeout_now=peer_pb2.TimeoutNow(term=term)),
            peer_pb2.PeerMessage(stop=peer_pb2.Stop(message="x" * 1_000, state_differs=True)),
            peer_pb2.PeerMessage(stop=peer_pb2.Stop(message="x", state_differs=False)),
            peer_pb2.PeerMessage(
                snapshot_chunk=peer_pb2.SnapshotChunk(
                    term=term, last_index=index, file_bytes=index, offset=index, data=b"x"
                )
            ),
            peer_pb2.PeerMessage(refusal=peer_pb2.Refusal(message="x" * 1_000, stranger=True)),
            peer_pb2.PeerMessage(
                append_reply=peer_pb2.AppendReply(term=term, accepted=True, next_index=index)
            ),
        ]
    )
