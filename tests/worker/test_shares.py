from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq_worker.pool.shares import shares

LIMITS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=0, max_size=5)


@pytest.mark.parametrize(
    ("count", "idle", "room", "expected"),
    [
        (0, [2, 2], [2, 2], [0, 0]),
        (3, [2, 2], [9, 9], [1, 2]),
        (4, [0, 4], [9, 4], [0, 4]),
        (8, [2, 2], [9, 3], [5, 3]),
        (9, [1], [4], [4]),
        (5, [], [], []),
    ],
)
def test_empty_slots_are_filled_before_queues(
    count: int, idle: list[int], room: list[int], expected: list[int]
) -> None:
    assert sorted(shares(count, idle, room)) == sorted(expected)


@given(st.integers(0, 60), LIMITS)
def test_as_much_is_shared_out_as_there_is_room_for_and_no_slot_stands_empty_beside_a_queue(
    count: int, limits: list[tuple[int, int]]
) -> None:
    room = [max(idle, rest) for idle, rest in limits]
    idle = [idle for idle, _ in limits]

    given_out = shares(count, idle, room)

    assert sum(given_out) == min(count, sum(room))
    assert all(share <= limit for share, limit in zip(given_out, room, strict=True))
    queued = any(share > slots for share, slots in zip(given_out, idle, strict=True))
    empty = any(share < slots for share, slots in zip(given_out, idle, strict=True))
    assert not (queued and empty)
