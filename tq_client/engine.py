"""An `AsyncClient` on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar
from weakref import WeakSet

from tq_client import errors, forks
from tq_client.async_client import AsyncClient, caller_of

_T = TypeVar("_T")
_Call = Callable[[AsyncClient], Coroutine[Any, Any, _T]]

CLOSE_S: Final = 2.0
"""The time limit for closing the client, and for closing its channels before a fork."""
SLACK_S: Final = 5.0
"""How much longer than its own time limit a call is waited for, at most."""


class _Running:
    """The thread, its loop and the client there, of one process."""

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self.loop = asyncio.new_event_loop()
        # The thread refers only to the loop, so that everything else can be freed while it runs.
        self.thread = threading.Thread(
            target=_serve, args=(self.loop,), name="tq-client", daemon=True
        )
        self.thread.start()
        made = asyncio.run_coroutine_threadsafe(_made(make), self.loop)
        try:
            self.client = made.result(SLACK_S)
        except BaseException:
            self.end()
            raise
        forks.closed(caller_of(self.client))  # ours are closed before a fork

    @property
    def ended(self) -> bool:
        return self.loop.is_closed() or not self.thread.is_alive()

    @property
    def here(self) -> bool:
        """Whether this is its thread."""
        return threading.current_thread() is self.thread

    def begin(self, call: Coroutine[Any, Any, _T]) -> concurrent.futures.Future[_T]:
        return asyncio.run_coroutine_threadsafe(call, self.loop)

    def end(self) -> None:
        """End the thread; it closes the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        if not self.here:
            self.thread.join(CLOSE_S)


class Engine:
    """Runs calls for other threads; after a fork it works in both processes.

    None of its methods blocks for ever.
    """

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        """``make`` makes the client, on the engine's own loop."""
        forks.check()
        self._make = make
        self._lock = threading.Lock()
        self._closed = False
        self._running: _Running | None = _Running(make)
        _engines.add(self)
        forks.closes_before(self)

    def run(self, call: _Call[_T], within_s: float) -> _T:
        """Make a call whose own time limit is ``within_s``, and wait for it."""
        running = self._current()
        if running.here:
            raise RuntimeError("a Client cannot be used on its own event loop: it would never end")
        future = running.begin(call(running.client))
        try:
            return future.result(within_s + SLACK_S)
        except TimeoutError:
            if future.done():
                raise  # the call's own
            future.cancel()
            raise errors.UnavailableError(
                f"the client's own thread has not answered within {within_s + SLACK_S:g} s"
            ) from None
        except BaseException:
            # Ctrl-C, for example: the caller no longer waits for the call.
            future.cancel()
            raise

    async def awaited(self, call: _Call[_T]) -> _T:
        """Make a call from another event loop."""
        running = self._current()
        return await asyncio.wrap_future(running.begin(call(running.client)))

    def close(self) -> None:
        """End every call in flight, and the thread; waits at most ``CLOSE_S`` for each."""
        running = self._close()
        if running is None:
            return
        if not running.here:
            concurrent.futures.wait([running.begin(running.client.close())], CLOSE_S)
        running.end()

    def abandon(self) -> bool:
        """Close without waiting; False if there was nothing to close."""
        running = self._close()
        if running is None:
            return False
        loop, client = running.loop, running.client
        loop.call_soon_threadsafe(lambda: loop.create_task(_end(client, loop)))
        return True

    def before_fork(self) -> bool:
        """Close the channels and open none until after the fork; True if all are closed."""
        running = self._running
        if running is None or running.ended:
            return True
        if running.here:
            return False
        resting = running.begin(caller_of(running.client).rest())
        concurrent.futures.wait([resting], CLOSE_S)
        return resting.done() and not resting.cancelled() and resting.exception() is None

    def after_fork_in_parent(self) -> None:
        """Go on."""
        running = self._running
        if running is not None and not running.ended:
            running.loop.call_soon_threadsafe(caller_of(running.client).go_on)

    def after_fork_in_child(self) -> None:
        """Have the next call start a new thread: the old one, and its loop, are the parent's."""
        self._lock = threading.Lock()
        if self._running is not None:
            forks.keep(self._running)
            self._running = None

    def _current(self) -> _Running:
        forks.check()
        with self._lock:
            if self._closed:
                raise errors.UnavailableError("the client is closed")
            if self._running is None or self._running.ended:
                self._running = _Running(self._make)
            return self._running

    def _close(self) -> _Running | None:
        """Take no more calls; returns the running thread and client, if there are any."""
        # When the interpreter ends, its threads have stopped for good: do not wait for them.
        if sys.is_finalizing():
            return None
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
        _engines.discard(self)
        return None if running is None or running.ended else running


_engines: Final[WeakSet[Engine]] = WeakSet()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _made(make: Callable[[], AsyncClient]) -> AsyncClient:
    """Make the client on its loop."""
    return make()


async def _end(client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await client.close()
    except TimeoutError:
        pass
    finally:
        loop.stop()


@atexit.register
def _close_all() -> None:
    """Close the clients that a program left open, while their threads still run."""
    until_s = time.monotonic() + CLOSE_S
    for each in list(_engines):
        if time.monotonic() < until_s:
            each.close()
