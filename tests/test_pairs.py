"""A window of measurements stands in one place, and its user decides where it ends."""

from __future__ import annotations

import gc
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq_cluster.telemetry.pairs import Pairs
from tq_cluster.telemetry.samples import Samples

STEPS = st.lists(st.sampled_from(["append", "append", "drop_first", "drop_last"]), max_size=60)


@given(STEPS)
def test_pairs_are_a_queue_open_at_both_ends(steps: list[str]) -> None:
    pairs, naive = Pairs("q"), deque[tuple[float, int]]()

    for number, step in enumerate(steps):
        if step == "append":
            pairs.append(number / 2, number)
            naive.append((number / 2, number))
        elif naive:
            getattr(pairs, step)()
            naive.popleft() if step == "drop_first" else naive.pop()
        assert len(pairs) == len(naive)
        if naive:
            assert (pairs.first, pairs.last) == (naive[0], naive[-1])
        since = number / 4
        assert pairs.second_since(since) == next((b for a, b in naive if a >= since), None)


def test_of_no_pair_nothing_can_be_had() -> None:
    pairs = Pairs("d")
    pairs.append(1, 1)
    pairs.drop_first()

    for took in (pairs.drop_first, pairs.drop_last, lambda: pairs.first, lambda: pairs.last):
        with pytest.raises(IndexError):
            took()


def test_a_window_holds_no_objects_that_would_keep_the_memory_of_a_burst() -> None:
    pairs, samples = Pairs("d"), Samples(100)
    for number in range(1_000):
        pairs.append(number, number)
        samples.add(number)

    held, seen = [pairs, samples], set[int]()
    while held:
        one = held.pop()
        if id(one) not in seen and not isinstance(one, type):
            seen.add(id(one))
            held += gc.get_referents(one)
    assert len(seen) < 50


def test_a_ring_forgets_the_oldest() -> None:
    samples = Samples(3)
    for number in range(1, 6):
        samples.add(number)

    shares = samples.percentiles(0.0, 0.5, 1.0)
    assert shares == [3, 4, 5]
    assert all(a < b for a, b in pairwise(shares))
