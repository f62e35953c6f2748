"""tq-admin verify: it waits for a pass of its own and says what came of it."""

from __future__ import annotations

import pytest

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker
from tq.v1 import cluster_service_pb2 as pb


def seen(*, began: int = 0, last: int = 0, owes: int = 0) -> pb.VerifyStateResponse:
    """What a leader says; instants in seconds, 0 for none."""
    response = pb.VerifyStateResponse(rows=10, rows_total=100, last_rows=90)
    for node_id in ("n1", "n2", "n3"):
        response.nodes.add(node_id=node_id, ranges_agreed=4)
    response.nodes[2].unanswered_index = owes
    if began:
        response.began_at.FromSeconds(began)
    if last:
        response.last_began_at.FromSeconds(last)
        response.last_finished_at.FromSeconds(last + 1)
    return response


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tq_admin.verify.LOOK_S", 0.0)


def test_it_waits_for_a_pass_that_began_after_it_was_asked_for(
    admin: Admin, broker: FakeBroker
) -> None:
    broker.verified = [
        seen(began=5, last=1),
        seen(last=5),  # the pass that was under way
        seen(began=7, last=5),
        seen(last=7, owes=12),
        seen(last=7),
    ]

    ran = admin("verify", "-o", "json")

    assert (ran.code, ran.stderr) == (0, "")
    # It asks again until its own pass is under way: the leader that it asked may have died.
    assert broker.verifies == [True, True, True, False, False]
    assert ran.json["last_rows"] == 90


def test_a_difference_is_shown_and_ends_with_1(admin: Admin, broker: FakeBroker) -> None:
    differs = seen(last=7)
    differs.differences.add(node_id="n2", index=9, message="the state of n2 is not the majority's")
    broker.verified = [seen(last=1), differs]

    ran = admin("verify")

    assert ran.code == 1
    assert "the state of n2 is not the majority's" in ran.stderr
    assert "tq-admin cluster-status" in ran.stderr


def test_a_broker_that_owes_answers_is_named(admin: Admin, broker: FakeBroker) -> None:
    broker.verified = [seen(last=1), seen(last=7, owes=12)]

    ran = admin("verify")

    assert ran.code == 1
    assert "n3 did not answer for every range" in ran.stderr


def test_status_only_looks(admin: Admin, broker: FakeBroker) -> None:
    broker.verified = [seen(began=5, owes=12)]

    ran = admin("verify", "--status")

    assert ran.code == 0
    assert broker.verifies == [False]
    assert "10 of about 100 rows" in ran.stdout
    assert "none yet" in ran.stdout


def test_what_an_earlier_pass_found_is_told_and_fails_nothing(
    admin: Admin, broker: FakeBroker
) -> None:
    """The broker was started again and holds the others' state: this pass says so."""
    fixed = seen(last=7)
    fixed.differences.add(node_id="n2", index=9, message="n2 differed", earlier=True)
    broker.verified = [seen(last=1), fixed]

    ran = admin("verify")

    assert (ran.code, ran.stderr) == (0, "")
    assert "n2 differed" in ran.stdout
