"""What the demo's workers run: tq-worker run --handlers demo.handlers."""

from __future__ import annotations

import os
from functools import cache
from io import FileIO
from pathlib import Path

from demo import work
from tq_worker import TaskContext, task

TASK_TYPE = "compress-and-hash"
RUNS_DIR_VARIABLE = "DEMO_RUNS_DIR"
"""Where each handler process leaves a line for every run it started."""


@task(TASK_TYPE)
def compress_and_hash(payload: bytes, context: TaskContext) -> bytes:
    """Work one request of the trace off."""
    _runs_file().write(f"{context.task_id} {context.token}\n".encode())
    return work.result(payload)


@cache
def _runs_file() -> FileIO:
    """Open this process's own file; a line is one unbuffered append, so threads do not mix."""
    return FileIO(Path(os.environ[RUNS_DIR_VARIABLE]) / f"{os.getpid()}.runs", "a")
