"""The entry that puts another disk in a member's place."""

from __future__ import annotations

import dataclasses

from tests.core.lone_queue import LoneQueue
from tq.v1 import errors_pb2
from tq_cluster.core.model.operations import FormCluster, Refused, ReplaceNode, Replied
from tq_cluster.core.reads import queries

FORM = FormCluster(
    cluster_id="c-1", members={"n1": "one", "n2": "two"}, cluster_version=2, wall_ms=0
)
REPLACE = ReplaceNode(node_id="n2", incarnation="three")


def test_a_members_disk_is_replaced_and_the_others_stay() -> None:
    queue = LoneQueue()
    formed = queue.decide(FORM)

    replaced = queue.decide(REPLACE)

    assert isinstance(replaced.outcomes[0], Replied)
    assert queries.membership(queue.store.view()) == ("c-1", {"n1": "one", "n2": "three"})
    assert replaced.members == {"n1": "one", "n2": "three"}, "the log must be told"
    assert formed.members is None


def test_a_disk_that_has_taken_its_place_is_not_put_there_again() -> None:
    queue = LoneQueue()
    queue.decide(FORM, REPLACE)

    assert not queue.changed_by(REPLACE)
    assert queue.decide(REPLACE).members is None


def test_a_cluster_with_older_brokers_replaces_nobody() -> None:
    """They would go on talking to the old disk."""
    queue = LoneQueue()
    queue.decide(dataclasses.replace(FORM, cluster_version=1))

    outcome = queue.outcome(REPLACE)

    assert isinstance(outcome, Refused)
    assert outcome.reason == errors_pb2.ERROR_REASON_NOT_REPLACEABLE


def test_who_is_no_member_cannot_be_replaced() -> None:
    queue = LoneQueue()
    unformed = queue.outcome(REPLACE)
    queue.decide(FORM)

    stranger = queue.outcome(ReplaceNode(node_id="n9", incarnation="three"))

    for outcome in (unformed, stranger):
        assert isinstance(outcome, Refused)
        assert outcome.reason == errors_pb2.ERROR_REASON_INVALID_ARGUMENT
