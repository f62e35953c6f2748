"""When a node refuses a replacement, and the reason that the caller gets."""

from __future__ import annotations

import pytest

from tests.patience import PATIENCE_S
from tests.service.fakes import cluster_of, fails, stubs_of
from tq.v1 import cluster_service_pb2 as pb
from tq_cluster.core.model.operations import Outcome, ReplaceNode, Replied

MEMBERS = ("n1", "n2", "n3", "n4", "n5")


async def _replaced() -> Outcome:
    return Replied(reply=pb.ReplaceNodeResponse(node_id="n5", incarnation="new disk"))


async def test_an_empty_node_takes_the_place_of_one_that_is_gone() -> None:
    async with cluster_of(*MEMBERS) as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        log, leader = cluster["n1"].log, cluster["n1"].leader
        log.disconnected = {"n5"}
        log.strangers = {"n5": "new disk"}
        leader.answer = _replaced

        reply = await stubs.cluster.ReplaceNode(
            pb.ReplaceNodeRequest(node_id="n5"), timeout=PATIENCE_S
        )

    assert reply.incarnation == "new disk"
    assert [(each.node_id, each.incarnation) for each in leader.asked] == [("n5", "new disk")]
    assert all(isinstance(each, ReplaceNode) for each in leader.asked)


@pytest.mark.parametrize(
    ("node_id", "disconnected", "strangers", "said"),
    [
        ("n1", set(), {"n1": "x"}, "n1 leads"),
        ("n5", set(), {}, "up and well: there is nothing to replace"),
        ("n5", {"n5"}, {}, "no empty node introduces itself to n1 as n5"),
        ("n5", set(), {"n5": "x"}, "up and well beside the empty node"),
        ("n5", {"n5", "n4", "n3"}, {"n5": "x"}, "only 2 of 5 members are up without n5, and 3"),
    ],
)
async def test_a_replacement_that_is_not_safe_or_of_no_use_is_refused(
    node_id: str, disconnected: set[str], strangers: dict[str, str], said: str
) -> None:
    async with cluster_of(*MEMBERS) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        log = cluster["n1"].log
        log.disconnected, log.strangers = disconnected, strangers
        with fails() as refused:
            await stubs.cluster.ReplaceNode(pb.ReplaceNodeRequest(node_id=node_id), timeout=5)

    assert refused.reason == "NOT_REPLACEABLE"
    assert said in refused.message
    assert cluster["n1"].leader.asked == []


async def test_a_node_that_is_up_is_replaced_by_force_alone() -> None:
    async with cluster_of(*MEMBERS) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n1"].log.strangers = {"n5": "new disk"}
        cluster["n1"].leader.answer = _replaced
        request = pb.ReplaceNodeRequest(node_id="n5", force=True)

        await stubs.cluster.ReplaceNode(request, timeout=PATIENCE_S)

    assert len(cluster["n1"].leader.asked) == 1
