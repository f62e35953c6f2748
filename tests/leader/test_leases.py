"""Deadlines of live leases."""

from __future__ import annotations

import gc

from hypothesis import given
from hypothesis import strategies as st

from tq_cluster.core.model.operations import Lease
from tq_cluster.core.model.types import (
    DEFAULT_NAMESPACE,
    DurationMs,
    FencingToken,
    TaskId,
    TaskNumber,
)
from tq_cluster.leader.leases import LOOKED_AT_MAX, LeaseTable


class Hands:
    """A clock whose hands a test moves."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def __call__(self) -> float:
        return self.at_s


def lease(token: int, length_ms: int = 1_000) -> Lease:
    return Lease(
        FencingToken(token),
        TaskNumber(token),
        TaskId(f"t{token}"),
        DurationMs(length_ms),
        DEFAULT_NAMESPACE,
    )


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
    table.expect_pass(clock.at_s + 0.02)

    clock.at_s += 5.02  # the process was stopped; heartbeats wait in the sockets
    table.note_pass()
    assert table.expired(10) == []
    table.expect_pass(clock.at_s + 1)
    clock.at_s += 1
    table.note_pass()
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
    table.expect_pass(clock.at_s + 0.02)
    clock.at_s += 60
    assert table.expired(10) == []

    table.note_pass()
    assert table.expired(10) == []
    for _ in range(50):
        table.expect_pass(clock.at_s + 0.02)
        clock.at_s += 0.02
        table.note_pass()
    assert table.expired(10) == [lease(1)]


def test_a_lease_that_has_ended_takes_no_place_any_more() -> None:
    table = LeaseTable(Hands())
    for token in range(1, 20_001):
        table.grant(lease(token, length_ms=3_600_000))
        if token > 10:
            table.end(FencingToken(token))

    assert len(table) == 10
    assert table.entries() == 10


def test_a_lease_takes_one_place_however_often_it_is_renewed() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    for token in range(1, 101):
        table.grant(lease(token, length_ms=3_600_000))
    for _ in range(100):
        clock.at_s += 10
        table.renew([FencingToken(token) for token in range(1, 101)], table.now_s())
        assert table.expired(10) == []

    assert table.entries() == 100


def test_a_look_goes_through_no_more_leases_than_it_may_and_loses_none() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    count = 3 * LOOKED_AT_MAX
    for token in range(count):
        table.grant(lease(token))
    clock.at_s += 5

    found: set[int] = set()
    looks = 0
    while len(found) < count:
        expired = table.expired(LOOKED_AT_MAX)
        assert 0 < len(expired) <= LOOKED_AT_MAX
        found.update(each.token for each in expired)
        for each in expired:
            table.end(each.token)
        looks += 1
    assert looks == 3
    assert table.entries() == 0


def test_an_overdue_lease_whose_heartbeat_comes_in_time_is_overdue_no_more() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    table.grant(lease(1))
    clock.at_s += 1.5
    assert table.expired(10) == [lease(1)]

    table.renew([FencingToken(1)], table.now_s())
    assert table.expired(10) == []
    clock.at_s += 1
    assert table.expired(10) == [lease(1)]


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["grant", "renew", "end", "pass", "look"]),
            st.integers(0, 9),
            st.sampled_from([1_000, 1_010, 5_000, 3_600_000]),
            st.floats(0, 3),
        ),
        max_size=60,
    )
)
def test_the_table_finds_what_a_plain_list_of_deadlines_finds(
    steps: list[tuple[str, int, int, float]],
) -> None:
    clock = Hands()
    table = LeaseTable(clock)
    deadlines: dict[int, tuple[float, int]] = {}
    for step, token, length_ms, passed_s in steps:
        if step == "pass":
            clock.at_s += passed_s
        elif step == "end":
            table.end(FencingToken(token))
            deadlines.pop(token, None)
        elif step == "grant" and token not in deadlines:
            table.grant(lease(token, length_ms))
            deadlines[token] = (clock.at_s + length_ms / 1000, length_ms)
        elif step == "renew" and token in deadlines:
            from_s = clock.at_s - passed_s
            table.renew([FencingToken(token)], from_s)
            deadline_s, granted_ms = deadlines[token]
            deadlines[token] = (max(deadline_s, from_s + granted_ms / 1000), granted_ms)
        expired = {token for token, (at_s, _) in deadlines.items() if at_s <= clock.at_s}
        assert {each.token for each in table.expired(100)} == expired
        assert table.entries() == len(table) == len(deadlines)


def test_the_garbage_collector_does_not_look_into_the_table() -> None:
    """Of a hundred thousand leases a full collection held the event loop for 100 ms."""
    table = LeaseTable(lambda: 0.0)
    gc.collect()
    before = len(gc.get_objects())
    for token in range(10_000):
        table.grant(lease(token, 1_000 + token % 50))
    gc.collect()

    assert len(table) == 10_000
    assert len(gc.get_objects()) - before < 100


def test_an_expired_lease_says_of_which_namespace_it_is() -> None:
    clock = Hands()
    table = LeaseTable(clock)
    for token, namespace in ((1, DEFAULT_NAMESPACE), (2, 7)):
        table.grant(lease(token, 1_000)._replace(namespace=namespace))
    clock.at_s += 2

    found = {each.token: each.namespace for each in table.expired(10)}
    assert found == {1: DEFAULT_NAMESPACE, 2: 7}
