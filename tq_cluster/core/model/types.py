"""Scalars that are easy to swap for one another, each with a type of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType

TimestampMs = NewType("TimestampMs", int)
"""An instant in milliseconds since the Unix epoch, by log time."""

DurationMs = NewType("DurationMs", int)
"""A length of time in milliseconds."""

FencingToken = NewType("FencingToken", int)
"""Names one lease. Rises for ever within a cluster, below 2**53."""

TaskNumber = NewType("TaskNumber", int)
"""A task's internal number, in the order of submission: the key of every hot table."""

TaskId = NewType("TaskId", str)
"""A task's public id."""

DEFAULT_NAMESPACE: Final = 0
"""Where callers are that name none."""

Principal = NewType("Principal", str)
"""Who calls, as the service established it. Empty: anonymous."""


@dataclass(frozen=True, slots=True)
class AppliedAt:
    """How far a state has been applied: the entry's index and its term."""

    index: int
    term: int
