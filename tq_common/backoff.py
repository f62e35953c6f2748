"""How long to wait before something that failed is tried again."""

from __future__ import annotations

from typing import Final, Protocol

_DOUBLINGS_MAX: Final = 64
"""More change nothing, and 2 to the power of 1024 is more than a float holds."""


class Draw(Protocol):
    """A source of jitter, for example ``random`` or a ``random.Random``."""

    def uniform(self, a: float, b: float, /) -> float: ...


def doubled_s(first_s: float, most_s: float, doublings: int) -> float:
    """Return ``first_s``, doubled so many times, at most ``most_s``; both in seconds."""
    return float(min(most_s, first_s * 2 ** min(doublings, _DOUBLINGS_MAX)))


class Pauses:
    """The pauses between attempts: each is up to twice as long as the one before.

    A pause is a random part of its full length, at least ``share_min`` of it, so that those that
    failed together do not try again together. With 0 it is full jitter (M. Brooker, "Exponential
    Backoff And Jitter", 2015): it spreads many callers best, and the client uses it. With 0.5 no
    pause is close to nothing: for a loop that nothing else slows down.
    """

    __slots__ = ("_draw", "_first_s", "_full_s", "_most_s", "_share_min")

    def __init__(self, first_s: float, most_s: float, *, share_min: float, draw: Draw) -> None:
        """``first_s`` and ``most_s`` are the full lengths of the first and the longest pause."""
        self._first_s = first_s
        self._most_s = most_s
        self._share_min = share_min
        self._draw = draw
        self._full_s = first_s

    def next_s(self) -> float:
        """Return the next pause, in seconds."""
        pause_s = self._full_s * self._draw.uniform(self._share_min, 1.0)
        self._full_s = min(self._most_s, self._full_s * 2)
        return pause_s

    def reset(self) -> None:
        """Begin with the first pause again, after a success."""
        self._full_s = self._first_s
