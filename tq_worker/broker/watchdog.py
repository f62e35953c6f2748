"""Ends a worker that gets no answer from a broker, or whose own event loop stands still."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable

from tq_worker.broker.liveness import Liveness
from tq_worker.wire import exits

_logger = logging.getLogger(__name__)

LOOKS = 10
"""How often the silence is checked within its time limit."""
LAST_WORDS_S = 5.0
"""How long the last log line may take before the process ends without it."""
LEAVE_S = 30.0
"""How long an orderly end may take once the worker has given up."""


class Watchdog:
    """Reconnects when no claim is answered, and gives up if that does not help.

    A worker whose brokers are all down gives up as well; a supervisor must start it again.
    """

    def __init__(
        self,
        *,
        liveness: Liveness,
        deaf_after_s: float,
        reconnect: Callable[[], Awaitable[None]],
        give_up: Callable[[str], None],
    ) -> None:
        """``give_up`` makes the worker leave; its argument says why."""
        self._liveness = liveness
        self._deaf_after_s = deaf_after_s
        self._reconnect = reconnect
        self._give_up = give_up

    async def run(self) -> None:
        """Check the silence until cancelled or until the worker gives up."""
        reconnected_at: int | None = None
        while True:
            await asyncio.sleep(self._deaf_after_s / LOOKS)
            silence_s = self._liveness.silence_s()
            if silence_s < self._deaf_after_s:
                continue
            if reconnected_at == self._liveness.answers:
                self._give_up(
                    f"no claim was answered for {2 * self._deaf_after_s:g} s, "
                    "connecting anew did not help"
                )
                return
            _logger.warning(
                "no claim is answered: connecting anew", extra={"silence_s": round(silence_s, 1)}
            )
            reconnected_at = self._liveness.answers
            await self._reconnect()
            self._liveness.start_over()


class LoopGuard:
    """Ends the process when its event loop stands still; checks it from a thread of its own.

    The kernel then kills the handler processes, by PDEATHSIG.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._beats = 0
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._watch, name="loop-guard", daemon=True)

    def start(self) -> None:
        """Begin; called on the loop."""
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        """End; called on the loop."""
        self._stopped.set()

    def _beat(self) -> None:
        self._beats += 1
        if not self._stopped.is_set():
            self._loop.call_later(self._limit_s / LOOKS, self._beat)

    def _watch(self) -> None:
        seen, looks = 0, 0
        # Count checks, not time: while the whole process is stopped, there are no checks.
        while not self._stopped.wait(self._limit_s / LOOKS):
            looks = looks + 1 if seen == self._beats else 0
            seen = self._beats
            if looks >= LOOKS:
                die_soon(LAST_WORDS_S)
                _logger.critical(
                    "worker ends: its event loop stands still",
                    extra={"for_s": self._limit_s, "at": _where_main_is()},
                )
                os._exit(exits.DEAF)


def die_soon(within_s: float) -> None:
    """End this process after ``within_s`` in any case."""
    timer = threading.Timer(within_s, os._exit, [exits.DEAF])
    timer.daemon = True
    timer.start()


def _where_main_is() -> str:
    main = threading.main_thread().ident
    assert main is not None, "it runs"
    frame = sys._current_frames().get(main)  # noqa: SLF001 - the only way there is
    lines = traceback.extract_stack(frame)[-3:] if frame is not None else []
    return " < ".join(f"{each.name} ({each.filename}:{each.lineno})" for each in reversed(lines))
