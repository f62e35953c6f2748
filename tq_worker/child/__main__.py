"""A handler process: `python -m tq_worker.child`, started only by the worker.

The main thread runs the event loop with the async handlers, sync handlers have threads, and one
more thread listens to the parent. A handler that blocks the loop delays only other handlers.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import fcntl
import math
import os
import select
import signal
import socket
import struct
import sys
import termios
import threading
import traceback
from collections.abc import Sequence

from tq.internal.v1.worker_child_pb2 import Handler, ToHandlers
from tq_common.clock import boottime_s
from tq_worker.api.registry import HANDLERS, load
from tq_worker.child import sources
from tq_worker.child.outbox import Outbox
from tq_worker.child.runner import Attempt, Runner
from tq_worker.telemetry import logs, tracing
from tq_worker.telemetry.tracing import Telling
from tq_worker.wire import exits
from tq_worker.wire.frames import FrameReader
from tq_worker.wire.process_group import leave_and_end_group
from tq_worker.wire.progress import Progress

READ_BYTES = 256 * 1024
WATCH_S = 1.0
"""How often leases are checked: the clock of poll() stops while the machine sleeps."""

_PR_SET_PDEATHSIG = 1


class Listener:
    """Obeys the parent, in a thread of its own, and ensures that no handler outlives its lease.

    The parent stops handlers well before their leases end. If it cannot, because it was killed or
    stopped itself, the listener ends the process.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = FrameReader(ToHandlers)
        self._attempts: dict[int, Attempt] = {}
        self._heard_bytes = 0
        self._overdue: dict[int, int] = {}
        """Tokens of leases that seem over, each with the number of bytes that must be read from the
        parent first: they may renew the lease.
        """

    def ended(self, token: int) -> None:
        """Forget an attempt that is over; called in any thread."""
        self._attempts.pop(token, None)

    def listen(self, runner: Runner, loop: asyncio.AbstractEventLoop) -> None:
        """Run until the process ends."""
        try:
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            while True:
                patience_ms = self._patience_ms()
                spoken = bool(poll.poll(patience_ms))
                if spoken:
                    data = self._connection.recv(READ_BYTES)
                    if not data:
                        leave_and_end_group()
                        os._exit(exits.PARENT_GONE)
                    for message in self._frames.feed(data):
                        self._obey(message, runner, loop)
                    self._heard_bytes += len(data)
                if spoken and patience_ms != 0:
                    self._overdue = {}
                elif self.outlived():
                    leave_and_end_group()
                    os._exit(exits.LEASE_OVER)
        except BaseException:  # noqa: BLE001 - a process that cannot hear its parent must not run on
            traceback.print_exc()
            os._exit(exits.BROKEN)

    def _obey(self, message: ToHandlers, runner: Runner, loop: asyncio.AbstractEventLoop) -> None:
        for renewal in message.renewals:
            until_s = renewal.lease_until_ns / 1e9
            for token in renewal.tokens:
                if (attempt := self._attempts.get(token)) is not None:
                    attempt.renew(until_s)
        if message.start:
            attempts = [Attempt(each.task, each.lease_until_ns / 1e9) for each in message.start]
            for attempt in attempts:
                self._attempts[attempt.token] = attempt
            loop.call_soon_threadsafe(runner.take, attempts)
        for stop in message.stop:
            if (attempt := self._attempts.get(stop.token)) is not None:
                attempt.stop = stop.reason
                if attempt.context is not None:
                    attempt.context.cancelled.set(stop.reason)
                loop.call_soon_threadsafe(runner.stop, attempt)
        if message.give_back:
            loop.call_soon_threadsafe(runner.give_back)
        if message.leave:
            loop.call_soon_threadsafe(runner.leave)

    def _patience_ms(self) -> int | None:
        """How long to listen before leases are checked; None while there are none."""
        # An atomic copy: other threads end attempts meanwhile.
        attempts = list(self._attempts.values())
        if not attempts:
            return None
        now_s = boottime_s()
        # An attempt that waits with its lease over is never started: ignore it. One that runs with
        # its lease over may go on only until everything from the parent has been read.
        ends_s = [
            each.last_s for each in attempts if each.last_s > now_s or each.context is not None
        ]
        left_s = min(WATCH_S, min(ends_s, default=math.inf) - now_s)
        return max(0, math.ceil(left_s * 1000))

    def outlived(self) -> bool:
        """Whether a handler still runs after its lease is over.

        The messages that the parent has sent until now are read first: they may renew the lease.
        Later messages are not waited for.
        """
        now_s = boottime_s()
        overdue = [
            token
            for token, attempt in list(self._attempts.items())
            if attempt.context is not None and now_s >= attempt.last_s
        ]
        if overdue:
            until_bytes = self._heard_bytes + _unread_bytes(self._connection)
            self._overdue = {each: self._overdue.get(each, until_bytes) for each in overdue}
        else:
            self._overdue = {}
        return any(self._heard_bytes >= until for until in self._overdue.values())


async def serve(
    listener: Listener, outbox: Outbox, progress: Progress, slots: int, files: Sequence[str]
) -> None:
    """Run handlers until the parent says to leave."""
    telling = Telling.read(os.environ)
    spans = tracing.set_up(telling, os.environ, with_handlers=True)
    runner = Runner(
        slots=slots,
        handlers=HANDLERS,
        outbox=outbox,
        progress=progress,
        ended=listener.ended,
        tracing=spans,
        log_tasks=telling.log_tasks,
    )
    loop = asyncio.get_running_loop()
    threading.Thread(
        target=listener.listen, args=(runner, loop), name="listener", daemon=True
    ).start()
    handlers = [
        Handler(type=each.task_type, solo=each.execution == "process", limit=each.concurrency)
        for each in HANDLERS.handlers()
    ]
    outbox.loaded(handlers, (), files)
    await runner.idle.wait()
    runner.close()
    if spans is not None:
        spans.close()


def main() -> None:
    """Start with the parent's arguments."""
    parser = argparse.ArgumentParser(prog="tq_worker.child")
    parser.add_argument("--socket-fd", type=int, required=True)
    parser.add_argument("--progress-fd", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--handlers", required=True)
    parser.add_argument("--log-format", required=True)
    arguments = parser.parse_args()
    _die_with_parent()
    logs.configure(arguments.log_format)
    # The parent decides when handlers stop. Empty functions rather than SIG_IGN, which processes
    # that a handler starts would inherit.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda _number, _frame: None)
    connection = socket.socket(fileno=arguments.socket_fd)
    connection.set_inheritable(False)
    # A fork that a handler makes of this process must not talk to the parent.
    os.register_at_fork(after_in_child=connection.close)
    progress = Progress(arguments.progress_fd)
    os.close(arguments.progress_fd)
    outbox = Outbox(connection)
    modules = arguments.handlers.split(",")
    imported = load(modules)
    logs.reinstate()
    files = sources.files(modules, imported.errors)
    if imported.problems:
        outbox.loaded((), imported.problems, files)
        sys.exit(exits.NOT_LOADED)
    asyncio.run(serve(Listener(connection), outbox, progress, arguments.slots, files))


def _unread_bytes(connection: socket.socket) -> int:
    answer = fcntl.ioctl(connection, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


def _die_with_parent() -> None:
    """Have the kernel kill this process when the parent dies.

    The listener would notice it, too, but not while a handler holds the interpreter.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
