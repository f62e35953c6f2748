from __future__ import annotations

from tq_worker.broker.prefetch import AHEAD_MAX, HORIZON_S, Prefetch
from tq_worker.pool.pool import RESTART_MAX_S, restart_delay_s


def test_nothing_is_held_ahead_of_handlers_that_take_long() -> None:
    prefetch = Prefetch(concurrency=10, now_s=0.0)

    for second in range(1, 20):
        prefetch.ended(10, float(second))

    assert prefetch.ahead(20.0) == 0


def test_about_a_quarter_second_of_tasks_is_held_ahead_of_fast_handlers() -> None:
    prefetch = Prefetch(concurrency=10, now_s=0.0)

    for tick in range(1, 200):
        prefetch.ended(40, tick / 100)

    assert prefetch.ahead(2.0) == int(4000 * HORIZON_S)


def test_never_more_than_the_bound_is_held_ahead() -> None:
    prefetch = Prefetch(concurrency=10, now_s=0.0)

    prefetch.ended(1_000_000, 1.0)

    assert prefetch.ahead(1.0) == AHEAD_MAX


def test_when_tasks_stop_ending_nothing_is_held_ahead_any_more() -> None:
    prefetch = Prefetch(concurrency=10, now_s=0.0)
    prefetch.ended(4000, 1.0)

    assert prefetch.ahead(1.1) == 1000
    assert 10 < prefetch.ahead(2.0) < 500
    assert prefetch.ahead(6.0) == 0


def test_a_process_that_dies_again_and_again_is_restarted_ever_later() -> None:
    delays = [restart_delay_s(deaths) for deaths in range(12)]

    assert delays[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == restart_delay_s(5_000) == RESTART_MAX_S
