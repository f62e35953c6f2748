"""How a worker and its handler processes end, and what that is called."""

from __future__ import annotations

import signal

UNDELIVERED = 1
"""The worker ended in order, but for reports that no broker took."""
USAGE = 2
"""The worker cannot run as asked; it has said why."""
DEAF = 3
"""The worker gave up: no broker answered it, or its event loop stood still. Start it again."""

NOT_LOADED = 112
"""The handler modules cannot be imported; it has said why."""
LEASE_OVER = 113
"""It ended itself before a lease did: the parent had neither renewed it nor stopped the handler."""
PARENT_GONE = 114
"""Nobody is there to renew leases."""
BROKEN = 115
"""A bug in tq; it has written a traceback."""

_SAID = {
    LEASE_OVER: "the handler process ended itself: a lease was nearly over and was not renewed",
    BROKEN: "the handler process failed, see its standard error",
}


def explain(code: int) -> str:
    """Name an exit code, or a signal where it is negative, for people."""
    if code >= 0:
        return _SAID.get(code, f"the handler process exited with code {code}")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"the handler process was ended by {name}{hint}"
