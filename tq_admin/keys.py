"""The keyboard while a screen is shown: q ends the screen."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from types import TracebackType
from typing import Any, Self


class Keys:
    """Reads single keys from the terminal; restores its settings when the context ends."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._before: list[Any] | None = None  # termios's settings

    def __enter__(self) -> Self:
        if self._fd is not None:
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd is not None and self._before is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def quit_within(self, seconds: float) -> bool:
        """Whether q is pressed within ``seconds``; returns as soon as it is."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if self._fd is None:
                time.sleep(left_s)
                continue
            ready, _, _ = select.select([self._fd], [], [], left_s)
            # One byte at a time: input after q is for the shell. No byte: the terminal is gone.
            if ready and os.read(self._fd, 1) in (b"q", b"Q", b""):
                return True
        return False
