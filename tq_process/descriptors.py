"""How many descriptors this process may have open, and how many of them callers may use."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final

_logger = logging.getLogger(__name__)

LIMIT_MAX: Final = 65_536
"""The soft limit is raised to this at most: a connection costs memory, too."""
KEPT: Final = 512
"""The descriptors that callers cannot use: for journal, state, snapshots, child processes, peers
and metrics. An idle broker has about 30 open."""
KEPT_SHARE: Final = 0.75
"""The share of the limit that callers cannot use, if that is less than `KEPT`."""
CALLERS_MIN: Final = 16


LOOK_S: Final = 10.0
REMIND_S: Final = 60.0


class CallersWatch:
    """Logs, once a minute at most, that callers have all the connections that they may have.

    gRPC closes further connections without a log line.
    """

    def __init__(self, most: int, open_now: Callable[[], int] | None = None) -> None:
        """``most``: how many connections callers may have. Make it before the first one."""
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._open_now = open_now or count_open
        self._own = self._open_now()
        self._told_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to count."""
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def stop(self) -> None:
        """Stop counting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        # In a thread: counting thousands takes a while.
        counting = self._loop.run_in_executor(None, self._open_now)
        counting.add_done_callback(self._counted)

    def _counted(self, counting: asyncio.Future[int]) -> None:
        if self._timer is None or counting.cancelled() or counting.exception() is not None:
            return
        self.start()
        now_s = self._loop.time()
        if counting.result() - self._own >= self._most and now_s >= self._told_s + REMIND_S:
            self._told_s = now_s
            _logger.warning(
                "connections are refused",
                extra={"port": "api", "why": f"callers have {self._most} connections already"},
            )


def raise_limit() -> int:
    """Raise the soft limit to the hard one, or to ``LIMIT_MAX`` if that is less; return it.

    The usual soft limit is 1,024, for programs that use select(). Nothing here does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, LIMIT_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # a sandbox forbids it: keep the present limit
            wanted = soft
    limit = limit_now()
    if limit < 2 * KEPT:
        _logger.warning(
            "few descriptors",
            extra={"limit": limit, "right": f"a hard limit of {LIMIT_MAX} (ulimit -Hn)"},
        )
    return limit


def limit_now() -> int:
    """The soft limit; `LIMIT_MAX` if it is higher."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return LIMIT_MAX if soft == resource.RLIM_INFINITY else min(soft, LIMIT_MAX)


def count_open() -> int:
    """Count the open descriptors; slow if there are many."""
    return len(os.listdir(Path("/proc/self/fd")))  # noqa: PTH208  # names alone


def for_callers() -> int:
    """How many connections callers may have, so that enough descriptors remain for the rest."""
    limit = limit_now()
    kept = min(KEPT, int(limit * KEPT_SHARE))
    return max(limit - kept - count_open(), CALLERS_MIN)
