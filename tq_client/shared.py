"""One client for a whole program: made on first use, shared by threads and event loops."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tq_client.async_client import AsyncClient
from tq_client.client import Client

_T = TypeVar("_T")


class SharedClient(Client):
    """A `Client` that other event loops can use, too, without being blocked."""

    async def awaited(self, call: Callable[[AsyncClient], Coroutine[Any, Any, _T]]) -> _T:
        """Make a call on the client's own loop and await it on the caller's."""
        return await self._engine.awaited(call)


_lock = threading.Lock()
_shared: SharedClient | None = None


def shared() -> SharedClient:
    """Return the program's client for the brokers at TQ_ADDRESS; closed when the program ends."""
    global _shared  # noqa: PLW0603 - one for the program is what it is for
    with _lock:
        if _shared is None:
            _shared = SharedClient()
        return _shared


def _unlock() -> None:
    """Make a new lock in a child: the thread that held the old one may not exist there."""
    global _lock  # noqa: PLW0603  # as above
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)
