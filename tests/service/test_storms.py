"""Many calls of one kind at once, beside one of another kind."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.patience import PATIENCE_S
from tests.service.fakes import Node, cluster_of, until
from tq.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from tq_cluster.core.model.operations import Outcome, Submit

STORM = 24
"""As many long polls as one address may hold here."""
ARRIVED_S = 0.5
"""Calls that were sent are in the server's hands after this."""


class Calls:
    """A storm of one kind of call, then one call of another kind, from another thread."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        stub = task_service_pb2_grpc.TaskServiceStub(self.channel)
        wait = task_service_pb2.WaitTaskRequest(task_id="t")
        submit = task_service_pb2.SubmitRequest(tasks=[task_pb2.TaskSpec(queue="q", type="t")])
        # gRPC cancels a call whose future no variable holds.
        self.storm = [stub.WaitTask.future(wait, timeout=PATIENCE_S) for _ in range(STORM)]
        self.other = stub.Submit.future(submit, timeout=PATIENCE_S)


async def forever() -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


def told_before_the_submit(node: Node) -> int:
    """How many other calls came before it."""
    kinds = [isinstance(asked, Submit) for asked in node.leader.asked]
    return kinds.index(True)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_a_storm_of_one_kind_of_call_holds_up_no_other_kind(asked: str) -> None:
    """GRPC hands over one call after the other, with several turns of the loop between them."""
    async with cluster_of("n1", "n2", announced=True) as cluster:
        cluster.elect("n1", 1)
        leader = cluster["n1"].leader
        leader.answer = forever
        with ThreadPoolExecutor() as pool:
            sending = pool.submit(Calls, cluster[asked].address)
            # The loop stands still: all of them wait when it goes on.
            time.sleep(ARRIVED_S)  # noqa: ASYNC251
            calls = await asyncio.wrap_future(sending)
        await until(lambda: len(leader.asked) == STORM + 1, "all are asked")
        calls.channel.close()

    assert told_before_the_submit(cluster["n1"]) < STORM / 2
