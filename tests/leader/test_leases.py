"""Deadlines of live leases."""

from __future__ import annotations

from tq_cluster.core.operations import Lease
from tq_cluster.core.types import DurationMs, FencingToken, TaskId, TaskNumber
from tq_cluster.leader.leases import LeaseTable


class Hands:
    """A clock whose hands a test moves."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def __call__(self) -> float:
        return self.at_s


def lease(token: int, length_ms: int = 1_000) -> Lease:
    return Lease(FencingToken(token), TaskNumber(token), TaskId(f"t{token}"), DurationMs(length_ms))


def test_a_lease_expires_when_its_worker_was_silent_for_its_length() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    table.grant(lease(1))

    clock.at_s += 0.999
    assert table.expired(10) == []
    clock.at_s += 0.001
    assert table.expired(10) == [lease(1)]


def test_an_expired_lease_is_found_again_until_an_entry_ends_it() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    table.grant(lease(1))
    clock.at_s += 2

    assert table.expired(10) == [lease(1)]
    assert table.expired(10) == [lease(1)]
    table.end(FencingToken(1))
    assert table.expired(10) == []


def test_a_heartbeat_restores_the_full_length_from_its_arrival() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    table.grant(lease(1))
    clock.at_s += 0.9
    table.renew([FencingToken(1)], table.now_s())

    clock.at_s += 0.9
    assert table.expired(10) == []
    clock.at_s += 0.2
    assert table.expired(10) == [lease(1)]


def test_a_heartbeat_that_was_overtaken_never_shortens_a_lease() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    sent_early_s = table.now_s()
    clock.at_s += 0.5
    table.grant(lease(1))

    table.renew([FencingToken(1)], sent_early_s)
    clock.at_s += 0.9
    assert table.expired(10) == []


def test_a_stall_of_the_leader_moves_every_deadline_by_its_length() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    table.grant(lease(1))
    table.note_pass(0.02)

    clock.at_s += 5.02  # the process was stopped; heartbeats wait in the sockets
    table.note_pass(0.02)
    assert table.expired(10) == []
    clock.at_s += 1
    table.note_pass(1)
    assert table.expired(10) == [lease(1)]


def test_the_earliest_deadlines_come_first_and_in_slices() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    for token, length_ms in ((1, 900), (2, 300), (3, 600)):
        table.grant(lease(token, length_ms))
    clock.at_s += 1

    assert [each.token for each in table.expired(2)] == [2, 3]


def test_a_new_reign_starts_with_an_empty_table() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    table.grant(lease(1))
    table.clear()
    clock.at_s += 10

    assert len(table) == 0
    assert table.expired(10) == []


def test_nothing_expires_between_a_stall_and_the_pass_that_notices_it() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    table.grant(lease(1))
    table.note_pass(0.02)
    clock.at_s += 60
    assert table.expired(10) == []

    table.note_pass(0.02)
    assert table.expired(10) == []
    for _ in range(50):
        clock.at_s += 0.02
        table.note_pass(0.02)
    assert table.expired(10) == [lease(1)]
