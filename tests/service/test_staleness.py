"""How old a LOCAL answer says it may be."""

from __future__ import annotations

from dataclasses import dataclass

from tests.service.fakes import FakeLog
from tq_cluster.service.staleness import HEARTBEAT_MS, Staleness


@dataclass
class HandClock:
    """Moved by the test."""

    now_s: float = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int((self.now_s + 1_000_000) * 1000)


def follower() -> FakeLog:
    log = FakeLog("n1", ["n1", "n2"])
    log.hear_of("n2", 1)
    return log


def test_a_state_that_holds_everything_known_is_as_old_as_the_last_look() -> None:
    clock, log = HandClock(), follower()
    staleness = Staleness(clock=clock, log=log, written_ms=clock.wall_ms())

    staleness.sample()
    clock.now_s += 0.25

    assert staleness.of(log.commit_index) == 250 + HEARTBEAT_MS


def test_a_state_that_lags_is_as_old_as_the_first_entry_it_lacks() -> None:
    clock, log = HandClock(), follower()
    staleness = Staleness(clock=clock, log=log, written_ms=clock.wall_ms())
    for commit_index in (10, 11, 12, 13):
        log.commit_index = commit_index
        staleness.sample()
        clock.now_s += 1

    assert staleness.of(11) == 3_000 + HEARTBEAT_MS
    assert staleness.of(13) == 1_000 + HEARTBEAT_MS


def test_a_node_that_hears_from_no_leader_grows_older() -> None:
    clock, log = HandClock(), follower()
    staleness = Staleness(clock=clock, log=log, written_ms=clock.wall_ms())
    staleness.sample()

    log.disconnected.add("n2")
    for _ in range(5):
        clock.now_s += 1
        staleness.sample()
    alone = staleness.of(log.commit_index)
    log.hear_of(None, 2)
    clock.now_s += 1
    staleness.sample()

    assert alone == 5_000 + HEARTBEAT_MS
    assert staleness.of(log.commit_index) == 6_000 + HEARTBEAT_MS


def test_a_node_just_started_is_as_old_as_its_files() -> None:
    clock = HandClock()

    staleness = Staleness(clock=clock, log=follower(), written_ms=clock.wall_ms() - 60_000)

    assert staleness.of(10) == 60_000 + HEARTBEAT_MS


def test_the_leader_is_never_behind_itself() -> None:
    clock, log = HandClock(), follower()
    log.hear_of("n1", 2)
    staleness = Staleness(clock=clock, log=log, written_ms=0)

    staleness.sample()

    assert staleness.of(log.commit_index) == HEARTBEAT_MS
