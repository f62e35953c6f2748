"""An event loop on virtual time, and each host's own view of it.

Nothing waits: if no callback is ready, the clock jumps to the next timer. One seed gives one
history.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class StuckError(Exception):
    """Nothing is scheduled, so the run can never go on."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose clock moves only if no callback is ready."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = self
        self.processes: list[HostLoop] = []
        self.draw = random.Random(0)
        self.failure: BaseException | None = None
        """The error that a callback raised; it ends the run."""
        self.set_exception_handler(lambda _, context: self._failed(context))

    def time(self) -> float:
        return self._now_s

    def close(self) -> None:
        """End every remaining process."""
        for process in self.processes:
            process.take_apart()
        super().close()

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
        """Do nothing: there are no I/O events."""

    def _write_to_self(self) -> None:
        """Do nothing: the loop never sleeps."""


if TYPE_CHECKING:
    _Loop = asyncio.BaseEventLoop
else:
    # Most methods of a loop are not needed here.
    _Loop = asyncio.AbstractEventLoop


class HostLoop(_Loop):
    """One process's view of the loop: it can be paused, it can end, and its clock may be off.

    While it is paused its callbacks pile up. After that they run in the order of a real loop: first
    what was ready, then what arrived at its sockets, then its timers. Each callback sees this loop
    as the running loop.
    """

    def __init__(self, loop: VirtualLoop, *, started_s: float = 0.0, rate: float = 1.0) -> None:
        """``started_s`` and ``rate``: the first reading of its clock, and its speed."""
        self._loop = loop
        loop.processes.append(self)
        self._started_s = started_s
        self._rate = rate
        self._paused = False
        self._ended = False
        self._held: tuple[list[asyncio.Handle], ...] = ([], [], [])
        self._unread: dict[object, list[asyncio.Handle]] = {}
        """The callbacks that wait in each socket during a pause."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def time(self) -> float:
        return self._started_s + self._rate * self._loop.time()

    def create_future(self) -> asyncio.Future[Any]:
        # Called from outside, by a test: then the test will wait for it.
        inside = isinstance(asyncio.get_running_loop(), HostLoop)
        return asyncio.Future(loop=self if inside else self._loop)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:  # noqa: ANN401
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **options)
        # Kept, so that one that never runs again is not taken apart at a moment of Python's choice.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._ended:
            self._loop.call_soon(self._run, 0, handle)
        return handle

    def arrived(self, function: Callable[[], object], socket: object = None) -> None:
        """Schedule a callback for data that arrived at a socket."""
        handle = asyncio.Handle(function, (), self)
        if self._paused and not self._ended:
            self._unread.setdefault(socket, []).append(handle)
        else:
            self._run(1, handle)

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._ended:
            self._loop.call_at((when - self._started_s) / self._rate, self._run, 2, timer)
        return timer

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]  # noqa: ANN401
        """Run the function a little later, in one piece."""
        del executor
        done = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - the waiting caller gets it
                done.set_exception(error)
            else:
                done.set_result(result)

        self.call_later(0.01, work)
        return done

    def within(self, function: Callable[[], T]) -> T:
        """Run the function now, as a callback of this process."""
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            return function()
        finally:
            asyncio._set_running_loop(outer)

    def _run(self, kind: int, handle: asyncio.Handle) -> None:
        if self._ended or handle.cancelled():
            return
        if self._paused:
            self._held[kind].append(handle)
            return
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(outer)

    # ------------------------------------------------------------------ the process

    def pause(self) -> None:
        """Pause the process, as SIGSTOP does."""
        self._paused = True

    def resume(self) -> None:
        """Resume the process, as SIGCONT does."""
        self._paused = False
        held, self._held = self._held, ([], [], [])
        unread, self._unread = list(self._unread.values()), {}
        # A poll may name the sockets with data in any order.
        self._loop.draw.shuffle(unread)
        for handles in unread:
            held[1].extend(handles)
        for kind, handles in enumerate(held):
            for handle in handles:
                self._loop.call_soon(self._run, kind, handle)

    def end(self) -> None:
        """End the process, as SIGKILL does: none of its callbacks runs any more."""
        self._ended = True

    def take_apart(self) -> None:
        """End the process, and close its unfinished coroutines now, while the loop still exists."""
        self.end()
        for task in list(self._tasks):
            # The final actions of a dead process do not matter.
            with contextlib.suppress(Exception):
                self.within(task.get_coro().close)

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def ended(self) -> bool:
        return self._ended

    # ------------------------------------------------------------------ what asyncio asks for

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._ended

    def is_closed(self) -> bool:
        return self._ended

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._ended:
            self._loop.call_exception_handler(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: the timer is dropped when it is due."""
