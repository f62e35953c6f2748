"""Signals that must not end a process, and one that has it say where it is."""

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
"""So many tasks are looked at, and no more: it is done on the event loop."""
SHOWN_MAX: Final = 200
"""Of tasks that stand at different places."""
DEPTH_MAX: Final = 16

_LOGGED: Final = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""Few: each that comes while another is being handled takes kilobytes of a small stack."""


def harmless() -> Iterator[int]:
    """Signals that end a process unless it says otherwise, and say nothing of a fault of it.

    A script meant for another program sends them, a timer, or whoever mistook a process id.
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
    """Have SIGHUP and harmless signals end nothing, from the start of a process on."""
    for number in harmless():
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def log_passed_over(loop: asyncio.AbstractEventLoop) -> None:
    """Have the usual ones among the harmless signals end nothing, and each be logged."""
    for number in _LOGGED:
        loop.add_signal_handler(number, _passed_over, number)


def on_hangup(loop: asyncio.AbstractEventLoop, act: Callable[[], object]) -> None:
    """Call ``act`` at SIGHUP, unless the process was started to outlive its terminal (nohup)."""
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, act)


def tell_stacks_on_quit(loop: asyncio.AbstractEventLoop) -> None:
    """At SIGQUIT, write to the log where every task and every thread is, and go on.

    Not through the loop: what holds it is what one would like to see.
    """

    def tell(_number: int, frame: FrameType | None) -> None:
        try:
            for event, keys in _stacks(loop, frame):
                _logger.warning(event, extra=keys)
        except Exception:  # it would be raised in whatever the signal interrupted
            _logger.exception("stacks not told")

    signal.signal(signal.SIGQUIT, tell)


def _passed_over(number: int) -> None:
    _logger.warning("signal passed over", extra={"signal": signal.Signals(number).name})


def _stacks(
    loop: asyncio.AbstractEventLoop, interrupted: FrameType | None
) -> Iterator[tuple[str, dict[str, object]]]:
    names = {each.ident: each.name for each in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001  # made for this very purpose
        # The one that handles the signal is shown where it was interrupted.
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
    """Where it waits, the innermost first: a task's own stack has its outermost coroutine alone."""
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
