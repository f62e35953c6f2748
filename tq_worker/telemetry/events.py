"""The log events of attempts; docs/monitoring.md explains them."""

from __future__ import annotations

import enum


class What(enum.StrEnum):
    """The event of a log line."""

    STARTED = "attempt started"
    COMPLETED = "attempt completed"
    FAILED = "attempt failed"
    RELEASED = "attempt released"
    STOPPED = "handler is stopped"
    UNFIT = "tasks of this type are left to other workers"
