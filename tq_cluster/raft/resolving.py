"""Resolves names to addresses in threads of its own, apart from the event loop's.

A resolver that hangs holds one thread for each name, and blocks nothing else. Meanwhile, and if it
fails, the last addresses that it gave are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final

ADDRESSES_MAX: Final = 4
"""Addresses of one name that are tried."""
HOLD_S: Final = 0.2
"""How long a dial waits for a new answer if there is an older one."""

Resolve = Callable[[str], Sequence[str]]
"""The addresses of a name. Raises OSError; may block for any time."""


def system_resolve(name: str) -> list[str]:
    """Ask the system's resolver."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))[:ADDRESSES_MAX]


class Resolver:
    """Resolves names, one resolution of each at a time."""

    def __init__(self, resolve: Resolve = system_resolve) -> None:
        self._resolve = resolve
        self._last_good: dict[str, Sequence[str]] = {}
        self._running: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def addresses(self, name: str) -> Sequence[str]:
        """Return the addresses of ``name``, new or the last good ones.

        Raises OSError if there are none. If cancelled, it leaves the resolution running for the
        next caller.
        """
        if _is_address(name):
            return (name,)
        running = self._running.get(name) or self._begin(name)
        known = self._last_good.get(name)
        try:
            if known is None:
                return await asyncio.shield(running)
            async with asyncio.timeout(HOLD_S):
                return await asyncio.shield(running)
        except OSError:  # TimeoutError is one
            if known is None:
                raise
            return known

    def _begin(self, name: str) -> asyncio.Future[Sequence[str]]:
        loop = asyncio.get_running_loop()
        running: asyncio.Future[Sequence[str]] = loop.create_future()
        running.add_done_callback(_seen)
        self._running[name] = running

        def ended(found: Sequence[str] | OSError) -> None:
            self._running.pop(name, None)
            if isinstance(found, OSError):
                running.set_exception(found)
            else:
                self._last_good[name] = found
                running.set_result(found)

        def work() -> None:
            found: Sequence[str] | OSError
            try:
                found = self._resolve(name) or OSError(f"{name} has no address")
            except OSError as error:
                found = error
            except UnicodeError as error:
                found = OSError(f"{name!r} is no name: {error}")
            # If the loop is closed, no caller waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended, found)

        # A daemon, unlike an executor's: a resolver that hangs must not hold up the exit.
        threading.Thread(target=work, name=f"resolve {name}", daemon=True).start()
        return running


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _seen(running: asyncio.Future[Sequence[str]]) -> None:
    """Retrieve the error, so that asyncio does not report it: the caller may have given up."""
    if not running.cancelled():
        running.exception()
