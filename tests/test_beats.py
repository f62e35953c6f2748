"""Periodic work of all kinds is due at the same instants."""

from __future__ import annotations

import pytest

from tq_cluster.beats import BEAT_S, next_beat_s


@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("now_s", [0.0, 0.03, 0.0999, 12.3, 86_400.05, 86_400.0501])
def test_the_next_beat_is_common_and_neither_too_near_nor_too_far(now_s: float, every: int) -> None:
    beat_s = next_beat_s(now_s, every)

    assert beat_s / (every * BEAT_S) == pytest.approx(round(beat_s / (every * BEAT_S)))
    assert BEAT_S / 2 <= beat_s - now_s <= every * BEAT_S + BEAT_S / 2


@pytest.mark.parametrize("early_s", [0.0, 1e-9, 0.001])
def test_a_beat_that_came_early_is_not_repeated(early_s: float) -> None:
    assert next_beat_s(5 * BEAT_S - early_s) == pytest.approx(6 * BEAT_S)
