"""What the demo's workers run: tq-worker run --handlers demo.handlers."""

from __future__ import annotations

import os
from collections import Counter
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
    """Run one request of the trace."""
    _runs_file().write(f"{context.task_id} {context.token}\n".encode())
    return work.result(payload)


def runs(folder: Path) -> Counter[str]:
    """Count the runs that were started on each task, from the handlers' files in ``folder``."""
    return Counter(
        line.split()[0] for path in folder.glob("*.runs") for line in path.read_text().splitlines()
    )


@cache
def _runs_file() -> FileIO:
    """Open this process's own file; a line is one unbuffered append, so threads do not mix."""
    return FileIO(Path(os.environ[RUNS_DIR_VARIABLE]) / f"{os.getpid()}.runs", "a")
