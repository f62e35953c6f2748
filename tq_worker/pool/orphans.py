"""A worker that is process 1, as in a container, is everybody's last parent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from typing import Final

REAP_S: Final = 1.0


async def reap(ours: Callable[[], Collection[int]]) -> None:
    """Reap processes that nobody else waits for, until cancelled; ``ours`` we wait for ourselves.

    By looking first: after a `waitpid(-1)`, whoever waits for a process of ours is told that it
    ended well.
    """
    while True:
        await asyncio.sleep(REAP_S)
        while (pid := _orphan(ours())) is not None:
            os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - it has ended


def is_last_parent() -> bool:
    """Whether orphans come to this process."""
    return os.getpid() == 1


def _orphan(ours: Collection[int]) -> int | None:
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    # One of ours hides others behind it, for a moment.
    return None if ended is None or ended.si_pid in ours else ended.si_pid
