"""How long something that failed waits for its next attempt."""

from __future__ import annotations

import random

import pytest

from tq_common.backoff import Pauses, doubled_s


class Longest:
    """Draws the longest, and keeps the bounds that it was given."""

    def __init__(self) -> None:
        self.bounds: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        self.bounds.append((a, b))
        return b


def test_each_pause_is_twice_as_long_as_the_one_before_up_to_the_longest() -> None:
    pauses = Pauses(0.5, 3.0, share_min=0.5, draw=Longest())

    assert [pauses.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_after_a_success_the_next_pause_is_the_first_one() -> None:
    pauses = Pauses(0.5, 3.0, share_min=0.5, draw=Longest())
    for _ in range(5):
        pauses.next_s()

    pauses.reset()

    assert [pauses.next_s(), pauses.next_s()] == [0.5, 1.0]


@pytest.mark.parametrize("share_min", [0.0, 0.5])
def test_a_pause_is_a_random_part_of_its_length_and_at_least_the_share_given(
    share_min: float,
) -> None:
    longest = Longest()
    Pauses(1.0, 8.0, share_min=share_min, draw=longest).next_s()
    assert longest.bounds == [(share_min, 1.0)]

    drawn = [Pauses(1.0, 8.0, share_min=share_min, draw=random.Random(n)) for n in range(100)]
    pauses = [each.next_s() for each in drawn]
    assert all(share_min <= pause_s <= 1.0 for pause_s in pauses)
    assert len(set(pauses)) > 90


def test_a_length_doubles_up_to_the_longest() -> None:
    assert [doubled_s(0.5, 3.0, doublings) for doublings in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_what_failed_more_often_than_a_float_can_double_waits_for_the_longest() -> None:
    assert doubled_s(0.1, 10.0, 100_000) == 10.0
