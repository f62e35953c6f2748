"""The exit codes of a worker and of its handler processes."""

from __future__ import annotations

import signal

UNDELIVERED = 1
"""The worker ended in order, but could not deliver all reports."""
USAGE = 2
"""The worker cannot run as asked; it has said why."""
DEAF = 3
"""The worker gave up: no broker answered it, or its event loop stood still. Start it again."""

NOT_LOADED = 112
"""The handler modules cannot be imported; the process has said why."""
LEASE_OVER = 113
"""A handler process ended itself: the parent neither renewed a lease nor stopped its handler."""
PARENT_GONE = 114
"""The parent is gone, so leases are no longer renewed."""
BROKEN = 115
"""A bug in tq; the process has written a traceback."""

_SAID = {
    LEASE_OVER: "the handler process ended itself: a lease was nearly over and was not renewed",
    BROKEN: "the handler process failed, see its standard error",
}


def explain(code: int) -> str:
    """Describe an exit code, or a signal if it is negative, for people."""
    if code >= 0:
        return _SAID.get(code, f"the handler process exited with code {code}")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"the handler process was ended by {name}{hint}"
