"""The gRPC server of a node."""

from __future__ import annotations

import asyncio

import pytest

from tests.patience import PATIENCE_S
from tests.service.fakes import cluster_of, stubs_of, until
from tq.v1 import task_service_pb2
from tq_cluster.core.model.operations import Outcome
from tq_cluster.service.server import calls_ended


def test_a_call_that_is_cancelled_as_the_node_stops_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[str] = []

    async def stop_under_a_cancelled_call() -> None:
        may_end = asyncio.Event()
        async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
            cluster.elect("n1", 2)
            asked = cluster["n1"].leader.asked

            async def takes_a_while_to_end() -> Outcome:
                try:
                    await asyncio.Event().wait()
                finally:
                    await may_end.wait()
                    ended.append("handler")
                raise AssertionError

            cluster["n1"].leader.answer = takes_a_while_to_end
            call = stubs.tasks.Submit(task_service_pb2.SubmitRequest(), timeout=PATIENCE_S)
            await until(lambda: len(asked) == 1, "the call arrives")
            call.cancel()
        assert ended == []
        asyncio.get_running_loop().call_soon(may_end.set)
        await calls_ended()

    asyncio.run(stop_under_a_cancelled_call())

    assert ended == ["handler"]
    assert caplog.messages == []
    assert capfd.readouterr().err == ""
