"""Reaps orphans if the worker is process 1, as in a container: the kernel makes it their parent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from typing import Final

REAP_S: Final = 1.0


async def reap(ours: Callable[[], Collection[int]]) -> None:
    """Reap orphaned processes until cancelled; other code waits for ``ours``.

    It looks before it reaps: after a `waitpid(-1)`, the code that waits for a process of ours would
    see exit code 0.
    """
    while True:
        await asyncio.sleep(REAP_S)
        while (pid := _orphan(ours())) is not None:
            os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it has ended


def is_last_parent() -> bool:
    """Whether this process becomes the parent of orphans."""
    return os.getpid() == 1


def _orphan(ours: Collection[int]) -> int | None:
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    # One of ours hides the others for a moment.
    return None if ended is None or ended.si_pid in ours else ended.si_pid
