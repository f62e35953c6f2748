"""A broken promise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise, and the task at which it shows; None when it is about more than one."""

    invariant: str
    message: str
    task_id: str | None = None
