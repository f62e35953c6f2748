"""gRPC's own threads: after the last channel is closed they end, but only some milliseconds later.

A fork in between leaves the child gRPC's locks as those threads held them, or waited for them: its
calls, or its own forks, may hang for ever (seen with grpcio 1.85 on a busy machine: the child of
a child in gRPC's handler before the fork). gRPC has no call that waits for them, so they are
looked up by name. Only Linux shows the names.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

WAIT_S: Final = 2.0
LOOK_S: Final = 0.0005
_TASKS: Final = Path("/proc/self/task")
_NAMES: Final = frozenset(
    # A name is cut off after 15 characters.
    name[:15]
    for name in (
        "grpc_global_timer",
        "event_engine",
        "lifeguard",
        "grpc_shutdown",
        "default-executor",
        "resolver-executor",
    )
)
_staying: Final[set[str]] = set()
"""The threads that did not end: those of a channel that the program itself has open."""


def await_end(within_s: float = WAIT_S) -> None:
    """Wait until gRPC's threads have ended, at most ``within_s``.

    Threads that have not ended by then are not waited for again.
    """
    give_up_s = time.monotonic() + within_s
    running = _running()
    _staying.intersection_update(running)
    while not running <= _staying:
        if time.monotonic() >= give_up_s:
            _staying.update(running)
            return
        time.sleep(LOOK_S)
        running = _running()


def _running() -> set[str]:
    """Return the ids of gRPC's threads; empty if the system does not show them."""
    try:
        return {each.name for each in _TASKS.iterdir() if _name_of(each) in _NAMES}
    except OSError:
        return set()


def _name_of(thread: Path) -> str:
    try:
        return (thread / "comm").read_text().strip()
    except OSError:
        return ""  # it has ended
