"""How many descriptors this process may have open, and how many of them are for callers."""

from __future__ import annotations

import logging
import os
import resource
from pathlib import Path
from typing import Final

_logger = logging.getLogger(__name__)

LIMIT_MAX: Final = 65_536
"""What the soft limit is raised to at most: a connection costs memory, too."""
KEPT: Final = 512
"""What callers cannot have: journal, state, snapshots, child processes, peers, metrics. A broker
that is not asked anything has about 30 open."""
KEPT_SHARE: Final = 0.75
"""Of a limit that is lower still."""
CALLERS_MIN: Final = 16


def raise_limit() -> int:
    """Raise the soft limit to the hard one, or to ``LIMIT_MAX`` if that is less; return it.

    The usual soft limit is 1,024, for programs that use select(). Nothing here does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, LIMIT_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # a sandbox forbids it: what there is has to do
            wanted = soft
    limit = limit_now()
    if limit < 2 * KEPT:
        _logger.warning(
            "few descriptors",
            extra={"limit": limit, "right": f"a hard limit of {LIMIT_MAX} (ulimit -Hn)"},
        )
    return limit


def limit_now() -> int:
    """The soft limit, as far as it counts here."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return LIMIT_MAX if soft == resource.RLIM_INFINITY else min(soft, LIMIT_MAX)


def open_now() -> int:
    """How many are open. Takes long if they are many."""
    return len(os.listdir(Path("/proc/self/fd")))  # noqa: PTH208  # names alone


def for_callers() -> int:
    """How many connections callers may have, so that everything else has descriptors enough."""
    limit = limit_now()
    kept = min(KEPT, int(limit * KEPT_SHARE))
    return max(limit - kept - open_now(), CALLERS_MIN)
