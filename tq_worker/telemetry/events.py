"""What a worker says of each attempt; docs/monitoring.md explains it."""

from __future__ import annotations

import enum


class What(enum.StrEnum):
    """The vocabulary."""

    STARTED = "attempt started"
    COMPLETED = "attempt completed"
    FAILED = "attempt failed"
    RELEASED = "attempt released"
    STOPPED = "handler is stopped"
    UNFIT = "tasks of this type are left to other workers"
