"""What a worker counts of itself stays small, however many types callers make up."""

from __future__ import annotations

from tq_process.recent import IDLE_S, IDLE_WHEN_FULL_S
from tq_worker.telemetry.stats import KINDS_MAX, OTHER, Stats


def test_queues_and_types_beyond_the_bound_are_counted_together() -> None:
    stats = Stats(now_s=lambda: 0.0)

    for number in range(5_000):
        stats.released[stats.kind("q", f"made up {number}")] += 1

    assert len(stats.released) == KINDS_MAX + 1
    assert stats.released[OTHER, OTHER] == 5_000 - KINDS_MAX


def test_a_type_that_is_not_met_any_more_makes_room_and_is_counted_no_more() -> None:
    now_s = 0.0
    stats = Stats(now_s=lambda: now_s)
    for number in range(KINDS_MAX):
        kind = stats.kind("q", f"made up {number}")
        stats.started[kind] += 1
        stats.durations[kind].add(1.0)
    assert stats.kind("q", "resize") == (OTHER, OTHER)

    now_s = IDLE_WHEN_FULL_S + 1
    assert stats.kind("q", "resize") == ("q", "resize")
    assert ("q", "made up 0") not in stats.started
    assert ("q", "made up 0") not in stats.durations

    now_s += IDLE_S + 1
    stats.tidy()
    assert not stats.started
    assert not stats.durations
