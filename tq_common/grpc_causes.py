"""What gRPC says of a connection that it could not make, without the words around the cause."""

from __future__ import annotations

import re

# The beginning of the message; the cause follows.
_CONNECTING = re.compile(
    r"^failed to connect to all addresses; last error: \w+: \S+: "
    r"(Failed to connect to remote host: )?"
)


def cause_of(details: str) -> str:
    """Return the cause from the details of a failed call; any other message as it is."""
    return _CONNECTING.sub("", details)
