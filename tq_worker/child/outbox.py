"""The messages of a handler process to its parent, gathered into frames."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Sequence

from tq.internal.v1.worker_child_pb2 import FromHandlers, Handler, Loaded
from tq.v1.worker_service_pb2 import TaskReport
from tq_worker.wire import exits
from tq_worker.wire.frames import encode


class Outbox:
    """Collects reports from the loop and from handler threads; each flush sends them all."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._reports: deque[tuple[TaskReport, int]] = deque()

    def loaded(
        self, handlers: Sequence[Handler], problems: Sequence[str], sources: Sequence[str]
    ) -> None:
        """Send the first message: the process can take tasks, or why it cannot."""
        loaded = Loaded(handlers=handlers, problems=problems, sources=sources)
        self._send(FromHandlers(loaded=loaded))

    def started(self, token: int) -> None:
        """Say that a handler is about to be entered, so that its timeout starts."""
        with self._sending:
            self._send(FromHandlers(started=[token]))

    def add(self, report: TaskReport, ran_us: int) -> None:
        """Keep a report, and its handler's run time in microseconds, for the next flush."""
        self._reports.append((report, ran_us))

    def __len__(self) -> int:
        return len(self._reports)

    def flush(self) -> None:
        """Send the gathered reports; blocks while the parent does not read."""
        with self._sending:
            # Take as many as there are now, one by one: other threads add more without the lock.
            reports = [self._reports.popleft() for _ in range(len(self._reports))]
            if reports:
                message = FromHandlers(
                    reports=[report for report, _ in reports],
                    ran_us=[ran_us for _, ran_us in reports],
                )
                self._send(message)

    def _send(self, message: FromHandlers) -> None:
        try:
            self._connection.sendall(encode(message))
        except OSError:
            # The parent is gone, so the leases are no longer renewed.
            os._exit(exits.PARENT_GONE)
