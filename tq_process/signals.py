"""Signals that must not end a process, and one that logs the process's stacks."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

_logger = logging.getLogger(__name__)

TASKS_MAX: Final = 1_000
"""How many tasks are examined, at most: it holds up the event loop."""
SHOWN_MAX: Final = 200
"""How many different stacks of tasks are logged, at most."""
DEPTH_MAX: Final = 16

_LOGGED: Final = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""Only a few: each signal during the handling of another takes kilobytes of a small stack."""


def harmless() -> Iterator[int]:
    """The signals that end a process by default, but do not mean a fault in it.

    They come from a timer, from a script for another program, or through a wrong process id.
    """
    yield from _LOGGED
    for name in ("SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR", "SIGSTKFLT"):
        number = getattr(signal, name, None)
        if number is not None:
            yield number
    if sys.platform == "linux":
        for number in signal.valid_signals():
            if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
                yield number


def pass_over_all() -> None:
    """Ignore SIGHUP and harmless signals; called at the start of a process."""
    for number in harmless():
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def log_passed_over(loop: asyncio.AbstractEventLoop) -> None:
    """Log the usual ones among the harmless signals, instead of ending the process."""
    for number in _LOGGED:
        loop.add_signal_handler(number, _passed_over, number)


def on_hangup(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Call ``act`` at SIGHUP, unless the process was started to outlive its terminal (nohup)."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, act)


def tell_stacks_on_quit(loop: asyncio.AbstractEventLoop) -> None:
    """At SIGQUIT, log the stacks of tasks and threads, and go on.

    The handler does not run through the loop, so that it shows what blocks the loop.
    """

    def tell(_number: int, frame: FrameType | None) -> None:
        try:
            for event, keys in _stacks(loop, frame):
                _logger.warning(event, extra=keys)
        except Exception:  # it would be raised in the interrupted code
            _logger.exception("stacks not told")

    signal.signal(signal.SIGQUIT, tell)


def _passed_over(number: int) -> None:
    _logger.warning("signal passed over", extra={"signal": signal.Signals(number).name})


def _stacks(
    loop: asyncio.AbstractEventLoop, interrupted: FrameType | None
) -> Iterator[tuple[str, dict[str, object]]]:
    names = {each.ident: each.name for each in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  # made for this very purpose
        # Show the thread that handles the signal where it was interrupted.
        own = ident == threading.get_ident()
        place = interrupted if own and interrupted is not None else frame
        name = names.get(ident, ident)
        yield "stack of a thread", {"thread_name": name, "stack": _of_frame(place)}
    tasks = asyncio.all_tasks(loop)
    places: Counter[tuple[str, str]] = Counter()
    for _, task in zip(range(TASKS_MAX), tasks, strict=False):
        coroutine = task.get_coro()
        places[getattr(coroutine, "__qualname__", "?"), _of_coroutine(coroutine)] += 1
    for (name, stack), count in places.most_common(SHOWN_MAX):
        yield "stack of a task", {"task": name, "tasks": count, "stack": stack}
    yield (
        "stacks told",
        {
            "tasks": len(tasks),
            "looked_at": min(len(tasks), TASKS_MAX),
            "places": len(places),
            "threads": len(names),
        },
    )


def _of_frame(frame: FrameType) -> str:
    found = traceback.walk_stack(frame)
    return " < ".join(
        _place(each, line) for (each, line), _ in zip(found, range(DEPTH_MAX), strict=False)
    )


def _of_coroutine(awaited: Any) -> str:  # noqa: ANN401  # coroutine, generator, future or other
    """The stack of a coroutine, innermost first: a task's own has only its outermost coroutine."""
    frames: list[str] = []
    while awaited is not None and len(frames) < DEPTH_MAX:
        for prefix, next_one in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(awaited, f"{prefix}_frame", None)
            if frame is not None:
                frames.append(_place(frame, frame.f_lineno))
                awaited = getattr(awaited, f"{prefix}_{next_one}", None)
                break
        else:
            break
    return " < ".join(reversed(frames))


def _place(frame: FrameType, line: int) -> str:
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{line} {code.co_qualname}"
