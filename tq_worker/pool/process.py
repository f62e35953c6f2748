"""One handler process, as the parent sees it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tq.internal.v1.worker_child_pb2 import FromHandlers, Loaded, Renewal, ToHandlers
from tq.v1.worker_service_pb2 import ClaimedTask, TaskReport
from tq_common.clock import boottime_s
from tq_worker.pool.channel import Channel
from tq_worker.wire import exits
from tq_worker.wire.frames import FrameReader, encode
from tq_worker.wire.lease import Lease
from tq_worker.wire.process_group import Group
from tq_worker.wire.progress import Progress, create_shared

if TYPE_CHECKING:
    from tq_worker.pool.slot import ProcessSlot

NS = 1_000_000_000
FRAME_BYTES = 1024 * 1024
"""A batch of tasks is split into frames of about this size, so that the first task starts before
the last has arrived.
"""


@dataclass(frozen=True, slots=True)
class End:
    """How one attempt ended, according to its process."""

    lease: Lease
    report: TaskReport
    ran_s: float
    """How long its handler ran; 0 if it was not started."""


class AttemptEvents(Protocol):
    """The receiver of what becomes of attempts: the pool, and beyond it the owner of the tasks."""

    def started(self, leases: Iterable[Lease]) -> None:
        """Attempts with a timeout were begun."""

    def ended(self, process: HandlerProcess, ends: Sequence[End]) -> None:
        """Attempts came to an end."""

    def exited(self, process: HandlerProcess) -> None:
        """The process has exited; ``outstanding`` holds its unfinished tasks."""


class ProcessEvents(AttemptEvents, Protocol):
    """The receiver of all events of a process."""

    def loaded(self, process: HandlerProcess, loaded: Loaded) -> None:
        """The process has imported its handlers, or could not."""


class HandlerProcess:
    """Starts the process, hands tasks in, receives their ends; can kill it at any moment."""

    def __init__(
        self,
        *,
        slot: ProcessSlot,
        modules: Sequence[str],
        slots: int,
        log_format: str,
        events: ProcessEvents,
    ) -> None:
        self.slot = slot
        self.slots = slots
        self.ready = False
        """Whether its handlers are loaded and it runs."""
        self.outstanding: dict[int, Lease] = {}
        """The attempts that were handed in and have not ended, by token, in order."""
        self.handed_in = 0
        """How many tasks were ever handed in."""
        self.leaving = False
        """Whether it was asked to exit once nothing runs."""
        self.exit_code: int | None = None
        self.killed_for: str | None = None
        """Why this worker killed it; None if it did not."""
        self._events = events
        self._taken_before = 0
        self._stuck_since_s = boottime_s()
        self._frames = FrameReader(FromHandlers)
        ours, theirs = socket.socketpair()
        progress_fd = create_shared()
        command = [
            *(sys.executable, "-m", "tq_worker.child"),
            *("--socket-fd", str(theirs.fileno()), "--progress-fd", str(progress_fd)),
            *("--slots", str(slots), "--handlers", ",".join(modules), "--log-format", log_format),
        ]
        try:
            # A new program: a mere fork of a process that uses gRPC is not safe to run on.
            self._process = subprocess.Popen(  # noqa: S603 - our own module, checked arguments
                command,
                pass_fds=(theirs.fileno(), progress_fd),
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
            self._progress = Progress(progress_fd)
        finally:
            theirs.close()
            os.close(progress_fd)
        self._group = Group(self._process.pid)
        self._channel = Channel(ours, self._received)
        self._pidfd = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def children(self) -> list[int]:
        """The pids of this worker's own children that it consists of."""
        return [self._process.pid, *self._group.pids]

    def memory_bytes(self) -> int:
        """Its resident memory, in bytes; 0 once it has ended."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return pages * resource.getpagesize()

    def stuck_since_s(self, now_s: float) -> float:
        """Since when tasks have waited here without one being started; else ``now_s``."""
        taken = self._progress.taken()
        if taken == self.handed_in or taken != self._taken_before:
            self._taken_before = taken
            self._stuck_since_s = now_s
        return self._stuck_since_s

    def has_started(self, lease: Lease) -> bool:
        """Whether the handler of a lease that was handed in may have been entered."""
        return lease.place < self._progress.taken()

    def hand_in(self, tasks: Iterable[tuple[Lease, ClaimedTask]]) -> None:
        """Send tasks, which start in this order as slots become free."""
        frame = ToHandlers()
        frame_bytes = 0
        for lease, claimed in tasks:
            lease.process = self
            lease.place = self.handed_in
            self.handed_in += 1
            self.outstanding[lease.token] = lease
            start = frame.start.add(lease_until_ns=round(lease.until_s * NS))
            start.task.CopyFrom(claimed)
            frame_bytes += len(claimed.spec.payload)
            if frame_bytes > FRAME_BYTES:
                self._send(frame)
                frame = ToHandlers()
                frame_bytes = 0
        self._send(frame)

    def renew(self, tokens: Iterable[int], until_s: float) -> None:
        """Send the new end of these leases."""
        renewal = Renewal(tokens=tokens, lease_until_ns=round(until_s * NS))
        self._send(ToHandlers(renewals=[renewal]))

    def stop(self, lease: Lease, reason: str) -> None:
        """Ask one handler to stop."""
        frame = ToHandlers()
        frame.stop.add(token=lease.token, reason=reason)
        self._send(frame)

    def give_back(self) -> None:
        """Ask it to release the tasks that it has not started."""
        self._send(ToHandlers(give_back=True))

    def leave(self) -> None:
        """Ask it to exit once nothing runs."""
        self.leaving = True
        self._send(ToHandlers(leave=True))

    def kill(self, reason: str) -> None:
        """Kill it at once."""
        if self.killed_for is None and self.exit_code is None:
            self.killed_for = reason
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def end_group(self) -> None:
        """Kill it at once, with all that it has started; it has sent its last message."""
        if self.exit_code is None:
            self._group.kill()

    def how_it_ended(self) -> str:
        """Name the exit code or signal, for people."""
        assert self.exit_code is not None, "asked after it has ended"
        if self.killed_for is not None:
            return f"the handler process was killed: {self.killed_for}"
        return exits.explain(self.exit_code)

    def ended_for_a_lease(self) -> bool:
        """Whether it was ended because one handler did not stop; the others are not at fault."""
        return self.killed_for is not None or self.exit_code == exits.LEASE_OVER

    def _send(self, message: ToHandlers) -> None:
        if self.exit_code is None:
            self._channel.send(encode(message))

    def _received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            if message.HasField("loaded"):
                self.ready = not message.loaded.problems
                self._events.loaded(self, message.loaded)
            if message.started:
                self._events.started(
                    self.outstanding[token]
                    for token in message.started
                    if token in self.outstanding
                )
            if message.reports:
                ends = []
                for report, ran_us in zip(message.reports, message.ran_us, strict=True):
                    # Leave out a report on a task that was not handed in: do not pass it on.
                    if (lease := self.outstanding.pop(report.token, None)) is not None:
                        lease.process = None
                        ends.append(End(lease, report, ran_us / 1e6))
                self._events.ended(self, ends)

    def _exited(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        # Read its last messages: a finished task has not failed.
        self._channel.drain()
        self._channel.close()
        self._group.end()
        self.exit_code = self._process.wait()
        self.ready = False
        self._events.exited(self)
        self._progress.close()
        os.close(self._pidfd)
