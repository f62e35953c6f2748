"""What a handler process has to say to its parent, gathered into frames."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Sequence

from tq.internal.v1.worker_child_pb2 import FromHandlers, Loaded
from tq.v1.worker_service_pb2 import TaskReport
from tq_worker import exits
from tq_worker.frames import encode


class Outbox:
    """Collects reports from the loop and from handler threads; whoever flushes sends them all."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._reports: deque[TaskReport] = deque()

    def loaded(self, task_types: Sequence[str], problems: Sequence[str]) -> None:
        """Say, first of all, that tasks can be taken, or why not."""
        self._send(FromHandlers(loaded=Loaded(task_types=task_types, problems=problems)))

    def started(self, token: int) -> None:
        """Say, before a handler is entered, that its time runs."""
        with self._sending:
            self._send(FromHandlers(started=[token]))

    def add(self, report: TaskReport) -> None:
        """Keep a report for the next flush."""
        self._reports.append(report)

    def __len__(self) -> int:
        return len(self._reports)

    def flush(self) -> None:
        """Send what has gathered; may block for as long as the parent does not read."""
        with self._sending:
            # Taken one by one, as many as there were: other threads add meanwhile, without the
            # lock.
            reports = [self._reports.popleft() for _ in range(len(self._reports))]
            if reports:
                self._send(FromHandlers(reports=reports))

    def _send(self, message: FromHandlers) -> None:
        try:
            self._connection.sendall(encode(message))
        except OSError:
            # Nobody renews the leases any more.
            os._exit(exits.PARENT_GONE)
