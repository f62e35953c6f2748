"""Shorten a failing story: leave out steps while it still fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

Fails = Callable[[frozenset[int]], bool]


def minimise(steps: Sequence[int], fails: Fails, *, within_s: float) -> frozenset[int]:
    """Return the fewest ``steps`` found in that time with which the story still fails.

    Delta debugging: leave out halves first, then smaller and smaller parts.
    """
    give_up_s = time.monotonic() + within_s
    kept = list(steps)
    parts = 2
    while kept:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            if time.monotonic() > give_up_s:
                return frozenset(kept)
            rest = kept[:start] + kept[start + size :]
            if fails(frozenset(rest)):
                kept = rest
                parts = max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(kept))
    return frozenset(kept)
