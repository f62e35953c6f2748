"""Workers, rates and depths."""

from __future__ import annotations

import grpc
import pytest

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker, refuse
from tq.v1 import queue_service_pb2
from tq_admin.output import rate, size
from tq_admin.readings import Reading, together
from tq_admin.stats import bar
from tq_client import QueueStats


def test_workers_are_shown_with_what_they_hold_and_how_long_they_were_silent(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.workers.observed.FromSeconds(300)
    busy = broker.workers.workers.add(worker_id="busy", queues=["a", "b"], leases=3, completed=40)
    busy.usage.memory_bytes, busy.usage.cpu_cores = 72_000_000, 1.25
    broker.workers.workers.add(worker_id="eager", queues=["a"], waiting=True)
    gone = broker.workers.workers.add(worker_id="gone", queues=["a"], leases=1)
    gone.silence.FromSeconds(200)
    killed = broker.workers.workers.add(worker_id="killed", queues=["a"], lost=True)
    killed.silence.FromSeconds(31)

    ran = admin("workers")

    rows = {line.split()[0]: line.split() for line in ran.stdout.splitlines() if line.strip()}
    assert rows["busy"] == (
        ["busy", "a,", "b", "working", "3", "0", "40", "0", "125%", "72.0", "MB", "now"]
    )
    assert rows["eager"][2] == "waiting"
    assert rows["gone"][2:4] == ["lost", "1"]
    assert rows["killed"][2:4] == ["lost", "0"]
    assert "As seen by n2, which leads for 5 min." in ran.stderr
    assert admin("workers", "-o", "json").json["workers"][0]["leases"] == 3


def test_where_nobody_works_the_next_step_is_named(admin: Admin) -> None:
    assert "tq-worker run" in admin("workers").stderr


def test_a_broker_that_knows_no_workers_yet_is_named_as_older(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.before = lambda context: context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")

    ran = admin("workers")

    assert ran.code == 1
    assert "another version" in ran.stderr


def test_stats_give_rates_between_two_readings(admin: Admin, broker: FakeBroker) -> None:
    admin("submit", "q", "t")
    broker.submitted_a_reading = 1_000

    ran = admin("stats", "--interval", "50ms", "-o", "json")

    per_s = ran.json["total"]["submitted_per_s"]
    assert per_s == pytest.approx(1_000 / ran.json["interval_s"], rel=0.05)
    assert ran.json["queues"][0]["rates"]["submitted_per_s"] == per_s
    assert ran.json["queues"][0]["rates"]["failed_per_s"] == 0
    table = admin("stats", "--interval", "50ms")
    assert "IN/s" in table.stdout
    assert "Rates over 0." in table.stderr
    assert admin("stats", "--interval", "soon").code == 2


def test_stats_without_a_leader_say_what_to_look_at(admin: Admin, broker: FakeBroker) -> None:
    broker.before = lambda context: refuse(
        context, grpc.StatusCode.UNAVAILABLE, "NO_LEADER", "no leader was found in time"
    )

    ran = admin("stats", "--timeout", "300ms")

    assert ran.code == 3
    assert "tq-admin cluster-status" in ran.stderr


def test_queues_are_drawn_as_deep_as_they_are_the_deepest_first(admin: Admin) -> None:
    for queue in ("shallow", "deep", "deep", "deep", "deep"):
        admin("submit", queue, "t")

    lines = admin("queue-depth").stdout.splitlines()

    assert lines[0].split() == ["deep", "4", "█" * 40]
    assert lines[1].split() == ["shallow", "1", "█" * 10]
    data = admin("queue-depth", "-o", "json").json
    assert [(each["queue"], each["depth"]) for each in data] == [("deep", 4), ("shallow", 1)]


def counted(**counts: int) -> QueueStats:
    message = queue_service_pb2.QueueStats()
    for state, count in counts.items():
        setattr(message, state, count)
    return QueueStats.of(message)


def totalled(queue: str, completed: int) -> QueueStats:
    totals = queue_service_pb2.QueueTotals(completed=completed)
    return QueueStats.of(queue_service_pb2.QueueStats(queue=queue, totals=totals))


def test_a_bar_is_as_long_as_its_parts_together_and_never_vanishes() -> None:
    mixed = counted(pending=5, running=3, retrying=1, scheduled=1)

    assert bar(mixed, 10, 20).plain == "█" * 20
    assert bar(counted(pending=1), 1_000_000, 20).plain == "█"
    assert bar(counted(completed=9), 10, 20).plain == ""


def test_rates_are_of_what_rose_and_a_new_queue_began_at_nothing() -> None:
    earlier = Reading(10.0, (totalled("a", 100),))
    later = Reading(
        12.0,
        (
            totalled("a", 150),
            totalled("b", 10),
        ),
    )

    rates = later.rates_since(earlier)

    assert (rates["a"]["completed"], rates["b"]["completed"]) == (25.0, 5.0)
    assert together(rates)["completed"] == 30.0


def test_amounts_are_shown_in_the_unit_that_suits_them() -> None:
    assert [size(0), size(999), size(4_900_000), size(2 * 10**12)] == [
        "0 B",
        "999 B",
        "4.9 MB",
        "2.0 TB",
    ]
    assert [rate(0), rate(0.25), rate(12_345)] == ["·", "0.2/s", "12,345/s"]
