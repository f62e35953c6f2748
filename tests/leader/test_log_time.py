"""Log time under one leader."""

from __future__ import annotations

import pytest

from tests.leader.bench import Bench, submit, told
from tq.v1 import task_service_pb2
from tq_cluster.core.model.types import TimestampMs
from tq_cluster.core.reads import queries
from tq_cluster.leader.clock_watch import ClockWatch
from tq_cluster.leader.log_time import LogTime

NOON_MS = 1_800_000_000_000


class Clocks:
    """A machine's two clocks, moved together or apart."""

    def __init__(self) -> None:
        self.monotonic = 10.0
        self.wall = NOON_MS

    def monotonic_s(self) -> float:
        return self.monotonic

    def wall_ms(self) -> int:
        return self.wall

    def pass_ms(self, length_ms: int) -> None:
        self.monotonic += length_ms / 1000
        self.wall += length_ms


def log_time(clocks: Clocks, offsets_ms: list[int], last_ms: int = 0) -> LogTime:
    made = LogTime(clocks, lambda: offsets_ms, members=3)
    made.begin(TimestampMs(last_ms), stepped_ms=0)
    return made


def run_for(time: LogTime, clocks: Clocks, length_ms: int) -> int:
    for _ in range(length_ms // 100):
        clocks.pass_ms(100)
        time.now_ms()
    return time.now_ms()


def test_a_new_cluster_starts_at_the_median_of_its_members_wall_clocks() -> None:
    clocks = Clocks()
    assert log_time(clocks, [-3_000, 4_000]).now_ms() == NOON_MS


def test_a_leader_whose_wall_clock_is_ahead_does_not_pull_log_time_along() -> None:
    clocks = Clocks()
    clocks.wall += 3_600_000
    time = log_time(clocks, [-3_600_000, -3_600_000], last_ms=NOON_MS - 5)

    assert run_for(time, clocks, 60_000) - (NOON_MS + 60_000) in range(-10, 10)


def test_log_time_never_goes_back_when_a_wall_clock_does() -> None:
    clocks = Clocks()
    time = log_time(clocks, [0, 0])
    before_ms = time.now_ms()
    clocks.wall -= 7_200_000

    clocks.pass_ms(100)
    assert before_ms < time.now_ms() <= before_ms + 100


def test_a_new_leader_goes_on_from_the_last_decided_instant_and_never_stops() -> None:
    clocks = Clocks()
    time = log_time(clocks, [0, 0], last_ms=NOON_MS + 30_000)

    first_ms = time.now_ms()
    clocks.pass_ms(1_000)
    assert first_ms >= NOON_MS + 30_000
    assert 490 <= time.now_ms() - first_ms <= 1_000


def test_a_small_difference_is_slewed_by_at_most_a_tenth() -> None:
    clocks = Clocks()
    time = log_time(clocks, [0, 0])
    clocks.wall += 20_000

    before_ms = time.now_ms()
    assert run_for(time, clocks, 10_000) - before_ms <= 11_001


def test_after_a_long_outage_log_time_steps_forward_by_agreement_of_a_majority() -> None:
    clocks = Clocks()
    time = log_time(clocks, [100, -100], last_ms=NOON_MS - 3_600_000)
    clocks.pass_ms(10)

    assert time.now_ms() >= NOON_MS
    assert time.stepped_ms in range(3_599_000, 3_601_000)
    assert time.instants().passed_ms == time.now_ms() - time.stepped_ms

    heir = LogTime(clocks, lambda: [100, -100], members=3)
    heir.begin(time.now_ms(), time.stepped_ms)
    run_for(heir, clocks, 60_000)
    assert heir.stepped_ms == time.stepped_ms


def test_one_clock_alone_is_not_believed_for_a_long_step() -> None:
    clocks = Clocks()
    time = log_time(clocks, [], last_ms=NOON_MS - 3_600_000)
    clocks.pass_ms(1_000)

    assert time.now_ms() < NOON_MS - 3_590_000


def test_time_that_is_ahead_is_drawn_back_at_half_speed_and_never_stops() -> None:
    clocks = Clocks()
    time = log_time(clocks, [0, 0])
    clocks.wall -= 120_000

    before_ms = time.now_ms()
    assert run_for(time, clocks, 60_000) - before_ms in range(29_900, 30_100)
    assert time.ahead_ms() in range(89_000, 91_000)
    run_for(time, clocks, 190_000)
    assert abs(time.ahead_ms()) < 100


def test_a_time_that_was_not_read_for_long_is_drawn_no_farther_than_it_was_off() -> None:
    clocks = Clocks()
    time = log_time(clocks, [0, 0])
    clocks.wall -= 500

    clocks.pass_ms(10_000)
    time.now_ms()

    assert time.ahead_ms() == 0


def test_the_leader_says_that_log_time_is_off_until_it_is_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    clocks = Clocks()
    time = log_time(clocks, [0, 0])
    watch = ClockWatch(time)
    assert (watch.look(), watch.message) == (0.0, "")

    clocks.wall -= 20_000
    assert watch.look() == pytest.approx(20.0, abs=0.1)
    assert "log time is 20.0 s ahead of the members' clocks" in watch.message
    assert "right in about 40 s" in watch.message
    run_for(time, clocks, 30_000)
    assert watch.look() == pytest.approx(5.0, abs=0.2)
    assert "5.0 s ahead" in watch.message
    run_for(time, clocks, 30_000)
    assert abs(watch.look()) < 0.1
    assert watch.message == ""
    clocks.wall += 5_000
    watch.look()
    assert "log time is 5.0 s behind" in watch.message

    assert [each.getMessage() for each in caplog.records] == [
        "log time is not what the clocks say",
        "log time is what the clocks say again",
        "log time is not what the clocks say",
    ]
    watch.end()
    assert watch.message == ""


async def test_a_step_of_log_time_is_in_the_state_for_the_next_leader(bench: Bench) -> None:
    """Request ids age by the rest of it under each leader."""
    step_ms = 20 * 60_000
    ids = told(await bench.leader.submit(submit("a")), task_service_pb2.SubmitResponse)
    bench.leader._log_time._now_ms += step_ms
    bench.leader._log_time.stepped_ms += step_ms
    again = told(await bench.leader.submit(submit("a")), task_service_pb2.SubmitResponse)
    await bench.leader.submit(submit("b", request_id="r2"))

    bench.leader._log_time.stepped_ms = 0  # as in another process
    bench.log.depose()
    bench.log.elect()

    assert queries.stepped_ms(bench.store.view()) == step_ms
    assert bench.leader._log_time.stepped_ms == step_ms
    repeated = told(await bench.leader.submit(submit("a")), task_service_pb2.SubmitResponse)
    found = [each.results[0].task.task_id for each in (ids, again, repeated)]
    assert found[0]
    assert set(found) == {found[0]}
