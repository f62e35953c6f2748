"""The session that a command works with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tq_admin.output import Output
from tq_client import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One cluster, one output."""

    client: Client
    addresses: tuple[str, ...]
    timeout_s: float
    output: Output
    pause: Callable[[float], None] = time.sleep
    """Waits this many seconds within a command."""
