"""Distinct types for scalars that are easy to confuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType

TimestampMs = NewType("TimestampMs", int)
"""An instant in milliseconds since the Unix epoch, by log time."""

DurationMs = NewType("DurationMs", int)
"""A length of time in milliseconds."""

FencingToken = NewType("FencingToken", int)
"""Identifies one lease. Always rises within a cluster, below 2**53."""

TaskNumber = NewType("TaskNumber", int)
"""A task's internal number, in the order of submission: the key of every hot table."""

TaskId = NewType("TaskId", str)
"""A task's public id."""

DEFAULT_NAMESPACE: Final = 0
"""The namespace of callers that name none."""

Principal = NewType("Principal", str)
"""The caller's identity, as the service established it. Empty: anonymous."""


@dataclass(frozen=True, slots=True)
class AppliedAt:
    """The last entry applied to a state: its index and its term."""

    index: int
    term: int
