"""An event loop on virtual time, and each host's own share of it.

Nothing waits: when no callback is ready, the clock jumps to the next timer. One seed is one
history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class StuckError(Exception):
    """Nothing is scheduled, so nothing will ever happen again."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose clock moves only when there is nothing to do."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = self
        self.failure: BaseException | None = None
        """What a callback raised. The run ends with it."""
        self.set_exception_handler(lambda _, context: self._failed(context))

    def time(self) -> float:
        return self._now_s

    def select(self, timeout_s: float | None) -> list[object]:
        if timeout_s is None:
            raise StuckError
        self._now_s += timeout_s
        return []

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; raise what any callback raised."""
        task = self.create_task(main)
        task.add_done_callback(lambda _: self.stop())
        self.run_forever()
        if self.failure is not None:
            task.cancel()
            raise self.failure
        return task.result()

    def _failed(self, context: dict[str, Any]) -> None:
        self.fail(context.get("exception") or AssertionError(context["message"]))

    def fail(self, error: BaseException) -> None:
        """End the run."""
        self.failure = self.failure or error
        self.stop()

    def _process_events(self, event_list: list[object]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


class HostTimer:
    """What ``call_at`` returns."""

    def __init__(self, when_s: float) -> None:
        self._when_s = when_s
        self._cancelled = False

    def when(self) -> float:
        return self._when_s

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled


class HostLoop:
    """One process's view of the loop: it can be paused, and it can end.

    While it is paused its callbacks pile up. When it goes on they run as a real loop would run
    them: first what was ready, then what arrived at its sockets, then its timers.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._paused = False
        self._ended = False
        self._held: tuple[list[Callable[[], None]], ...] = ([], [], [])

    def time(self) -> float:
        return self._loop.time()

    def create_future(self) -> asyncio.Future[Any]:
        return self._loop.create_future()

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        self._loop.call_soon(self._run, 0, lambda: function(*args))

    def arrived(self, function: Callable[[], object]) -> None:
        """Something came in at a socket."""
        self._run(1, function)

    def call_later(
        self, delay_s: float, function: Callable[..., object], *args: object
    ) -> HostTimer:
        return self.call_at(self.time() + delay_s, function, *args)

    def call_at(self, when_s: float, function: Callable[..., object], *args: object) -> HostTimer:
        timer = HostTimer(when_s)

        def fire() -> None:
            if not timer.cancelled():
                function(*args)

        self._loop.call_at(when_s, self._run, 2, fire)
        return timer

    def _run(self, kind: int, function: Callable[[], object]) -> None:
        if self._ended:
            return
        if self._paused:
            self._held[kind].append(function)  # type: ignore[arg-type]  # results are dropped
            return
        function()

    def pause(self) -> None:
        """As SIGSTOP."""
        self._paused = True

    def resume(self) -> None:
        """As SIGCONT."""
        self._paused = False
        held, self._held = self._held, ([], [], [])
        for kind, functions in enumerate(held):
            for function in functions:
                self._loop.call_soon(self._run, kind, function)

    def end(self) -> None:
        """As SIGKILL: nothing of this process runs any more."""
        self._ended = True

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def ended(self) -> bool:
        return self._ended
