"""A broken promise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise, and the task that shows it; None if it is about more than one."""

    invariant: str
    message: str
    task_id: str | None = None
