"""One client for a whole program: made when first needed, used from threads and event loops."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tq_client.async_client import AsyncClient
from tq_client.client import Client

_T = TypeVar("_T")


class SharedClient(Client):
    """A `Client` that event loops may use, too, without blocking them."""

    async def awaited(self, call: Callable[[AsyncClient], Coroutine[Any, Any, _T]]) -> _T:
        """Make a call on the client's own loop and await it on the caller's."""
        future = asyncio.run_coroutine_threadsafe(call(self._client), self._loop)
        return await asyncio.wrap_future(future)


_lock = threading.Lock()
_shared: SharedClient | None = None


def shared() -> SharedClient:
    """Return the program's client of the brokers at TQ_ADDRESS; closed when the program ends."""
    global _shared  # noqa: PLW0603 - one for the program is what it is for
    with _lock:
        if _shared is None:
            _shared = SharedClient()
            atexit.register(_shared.close)
        return _shared


def _forget() -> None:
    """Have a forked child make its own: the thread of its parent's is not in it."""
    global _lock, _shared
    if _shared is not None:
        atexit.unregister(_shared.close)
    _lock, _shared = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)
