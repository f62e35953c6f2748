"""How a batch of tasks is spread over handler processes."""

from __future__ import annotations

from collections.abc import Sequence


def shares(count: int, idle: Sequence[int], room: Sequence[int]) -> list[int]:
    """Split ``count`` tasks over processes.

    Process i has ``idle[i]`` empty slots and takes ``room[i]`` tasks in all. Empty slots are filled
    first, evenly, then the processes' queues. Tasks without room are in no share.
    """
    given = [0] * len(room)
    for limits in (idle, room):
        while count > 0:
            open_to = [i for i, limit in enumerate(limits) if given[i] < limit]
            if not open_to:
                break
            each = max(1, count // len(open_to))
            for i in open_to:
                taken = min(each, limits[i] - given[i], count)
                given[i] += taken
                count -= taken
    return given
