"""More types than one claim can name."""

from __future__ import annotations

from tq_worker import TaskContext, task


def nothing(_payload: bytes, _context: TaskContext) -> None:
    pass


for number in range(65):
    task(f"many-{number}")(nothing)
