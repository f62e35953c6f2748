"""Conversations of callers that mean no good: messages without an end, answers that are not read.

A message of a stream shows its size only once it is here. These callers send most of a message as
large as the wire takes, many at once, and then wait. HTTP/2 is spoken by hand: gRPC sends whole
messages (RFC 9113; https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
"""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from itertools import cycle, islice
from typing import Any

from grpc import aio

from chaos.abuse.readers import Clogged, submit_large
from chaos.abuse.target import Target, connection, together
from tq.v1 import conversation_service_pb2 as pb
from tq.v1 import task_service_pb2
from tq.v1.conversation_service_pb2_grpc import ConversationServiceStub

PATH = b"/tq.v1.ConversationService/Converse"
MESSAGE_BYTES = 11 << 20
"""A little less than the wire takes of a message."""
SENT_BYTES = MESSAGE_BYTES - (64 << 10)
UNFINISHED = 144
"""Unfinished messages at a time, to all addresses together."""
DEAF = 64
"""Conversations whose answers are not read, with all addresses together."""
UNDER_WAY = 8
HOLD_S = 3.0
CALLS = 60

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _WINDOW = 0, 1, 3, 4, 6, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_INITIAL_WINDOW = 4
_STREAM = 1
_CHUNK = bytes(16 << 10)


async def conversations(target: Target) -> None:
    """Hold unfinished messages and unread answers at every broker, again and again."""
    task_id = await submit_large(target)
    tried = [0]
    await together(
        [_unfinished(target, address, tried) for address in islice(cycle(target.api), UNFINISHED)]
        + [_deaf(target, address, task_id) for address in islice(cycle(target.api), DEAF)]
    )


async def _unfinished(target: Target, address: str, tried: list[int]) -> None:
    host, _, port = address.rpartition(":")
    while True:
        await asyncio.sleep(target.draw.uniform(0.0, 1.0))
        tried[0] += 1
        if tried[0] >= UNDER_WAY:
            target.under_way()
        with suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                async with asyncio.timeout(10 * HOLD_S):
                    await _Sender(reader, writer).send(address)
                await asyncio.sleep(HOLD_S)
            except TimeoutError:
                pass
            finally:
                writer.transport.abort()


class _Sender:
    """Sends the beginning of one message, as fast as the broker lets it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._windows = {0: 65_535, _STREAM: 65_535}
        """What the broker takes on the connection and on the stream."""

    async def send(self, address: str) -> None:
        self._frame(_SETTINGS, 0, 0, b"", before=_PREFACE)
        fields = {
            b":method": b"POST",
            b":scheme": b"http",
            b":path": PATH,
            b":authority": address.encode(),
            b"te": b"trailers",
            b"content-type": b"application/grpc",
        }
        literal = b"".join(
            b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
            for name, value in fields.items()
        )
        self._frame(_HEADERS, _END_HEADERS, _STREAM, literal)
        self._data(b"\x00" + MESSAGE_BYTES.to_bytes(4, "big"))
        left = SENT_BYTES
        while left > 0:
            room = min(left, len(_CHUNK), *self._windows.values())
            if room <= 0:
                await self._writer.drain()
                await self._read()
            else:
                self._data(_CHUNK[:room])
                left -= room
        await self._writer.drain()

    def _data(self, content: bytes) -> None:
        self._frame(_DATA, 0, _STREAM, content)
        for each in self._windows:
            self._windows[each] -= len(content)

    def _frame(
        self, kind: int, flags: int, stream: int, content: bytes, before: bytes = b""
    ) -> None:
        head = struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream)
        self._writer.write(before + head + content)

    async def _read(self) -> None:
        """Read one frame; EOFError if the broker has ended the connection or the stream."""
        head = await self._reader.readexactly(9)
        size = int.from_bytes(head[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        content = await self._reader.readexactly(size)
        if kind == _WINDOW:
            self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(content, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, size, 6):
                name, value = struct.unpack(">HI", content[at : at + 6])
                if name == _INITIAL_WINDOW:
                    self._windows[_STREAM] += value - 65_535
            self._frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._frame(_PING, _ACK, 0, content)
        elif stream == _STREAM and (kind == _RESET or flags & _END_STREAM):
            raise EOFError


async def _deaf(target: Target, address: str, task_id: str) -> None:
    """Ask in one conversation many times for a large task, and read nothing."""
    wait = task_service_pb2.WaitTaskRequest(task_id=task_id)
    get = task_service_pb2.GetTaskRequest(task_id=task_id)
    while True:
        async with Clogged(address) as way, connection(way) as channel:
            stub: Any = ConversationServiceStub(channel)
            stream = stub.Converse()
            with suppress(aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
                async with asyncio.timeout(HOLD_S):
                    for number in range(1, CALLS, 2):
                        calls = (
                            pb.ConverseCall(call_id=number, get_task=get),
                            pb.ConverseCall(call_id=number + 1, wait_task=wait),
                        )
                        await stream.write(pb.ConverseRequest(calls=calls))
                    await asyncio.sleep(HOLD_S)
            stream.cancel()
        await asyncio.sleep(target.draw.uniform(0.2, 1.0))
