"""The event loop on which gRPC takes all ready events in one turn."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack

import grpc
import grpc.aio
import pytest

from tq_common.event_loop import Arguments, EventLoop

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

CALLS = 200


class Watched(EventLoop):
    """Remembers the socket by which gRPC wakes it."""

    woken: socket.socket | None = None

    def add_reader(
        self,
        fd: FileDescriptorLike,
        callback: Callable[[Unpack[Arguments]], Any],
        *args: *Arguments,
    ) -> None:
        if isinstance(fd, socket.socket) and "CompletionQueue" in repr(callback):
            self.woken = fd
        super().add_reader(fd, callback, *args)


def unread_bytes(woken: socket.socket) -> int:
    ready = bytearray(4)
    fcntl.ioctl(woken, termios.FIONREAD, ready)
    return int.from_bytes(ready, sys.byteorder)


async def many_calls() -> tuple[list[bytes], int]:
    """Answer many calls in one turn of the loop.

    Return their replies, and how many turns it took until their callers had them.
    """
    under_way: list[bytes] = []
    release = asyncio.Event()

    async def echo(request: bytes, _context: object) -> bytes:
        under_way.append(request)
        await release.wait()
        return request

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test", {"Echo": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test/Echo")
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Watched)
            calls = [call(b"%d" % number) for number in range(CALLS)]
            while len(under_way) < CALLS:  # noqa: ASYNC110  # the handlers run on this loop
                await asyncio.sleep(0.01)
            assert loop.woken is not None, "gRPC wakes the loop in another way than it did"
            release.set()
            answers = asyncio.gather(*calls)
            turns = 0
            while not answers.done():
                await asyncio.sleep(0)
                time.sleep(0.005)  # noqa: ASYNC251  # gRPC's thread goes on while the loop does not
                turns += 1
            replies = await answers
    finally:
        await server.stop(None)
    return replies, turns


def test_a_burst_of_events_is_taken_in_a_few_turns() -> None:
    with asyncio.Runner(loop_factory=Watched) as runner:
        replies, turns = runner.run(many_calls())

    assert replies == [b"%d" % number for number in range(CALLS)]
    assert turns < CALLS // 2, "a call has several events"


def test_other_readers_get_every_byte() -> None:
    async def read() -> bytes:
        ours, theirs = socket.socketpair()
        got = bytearray()
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, lambda: got.extend(ours.recv(1)))
        theirs.send(b"every byte")
        while len(got) < 10:  # noqa: ASYNC110  # each turn of the loop counts
            await asyncio.sleep(0)
        loop.remove_reader(ours)
        ours.close()
        theirs.close()
        return bytes(got)

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        assert runner.run(asyncio.wait_for(read(), 10)) == b"every byte"


@pytest.mark.parametrize("count", [1, 2, 500])
def test_bytes_that_are_read_ahead_stand_for_events_that_are_handled(count: int) -> None:
    class PollerCompletionQueue:
        """As gRPC's: an event is queued before its byte is written."""

        def __init__(self) -> None:
            self.woken, self.waking = socket.socketpair()
            self.waking.setblocking(False)
            self.queued: list[int] = []
            self.handled: list[int] = []

        def push(self, event: int) -> None:
            self.queued.append(event)
            self.waking.send(b"1")

        def handle_events(self) -> None:
            self.woken.recv(1)
            self.handled += self.queued
            self.queued.clear()

    queue = PollerCompletionQueue()

    async def run() -> int:
        loop = asyncio.get_running_loop()
        loop.add_reader(queue.woken, queue.handle_events)
        for event in range(count):
            if event % 200 == 199:  # a socket pair holds 278 bytes
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            queue.push(event)
        while queue.queued:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0)
        left = unread_bytes(queue.woken)
        loop.remove_reader(queue.woken)
        return left

    try:
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            left = runner.run(asyncio.wait_for(run(), 10))
    finally:
        queue.woken.close()
        queue.waking.close()

    assert queue.handled == list(range(count))
    assert left == 0
