"""A Node.js client and worker, made from proto/ alone, against three brokers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.cluster.processes import ProcessCluster
from tests.languages.conftest import NODE_FOLDER
from tests.patience import PATIENCE_S
from tq_client import AsyncClient, AttemptEnd, TaskState

pytestmark = pytest.mark.cluster

TASKS = 200
EVENT_S = 60


class NodeClient:
    """A running client.mjs, and what it printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    async def until(
        self, name: str, holds: Callable[[dict[str, Any]], bool] = lambda _: True
    ) -> dict[str, Any]:
        """Read on until an event of this name that ``holds``, and return it."""
        assert self.process.stdout is not None
        while True:
            line = await asyncio.wait_for(self.process.stdout.readline(), EVENT_S)
            assert line, f"client.mjs ended without such a {name}: {self.events[-5:]}"
            event: dict[str, Any] = json.loads(line)
            self.events.append(event)
            if event["event"] != "claimed":
                print(f"node: {line.decode().rstrip()}")  # noqa: T201  # the story, for the log
            assert event["event"] != "failed", event
            if event["event"] == name and holds(event):
                return event


@asynccontextmanager
async def node_client(*arguments: str) -> AsyncIterator[NodeClient]:
    process = await asyncio.create_subprocess_exec(
        *("node", "client.mjs", *arguments),
        cwd=NODE_FOLDER,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield NodeClient(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_node_client_submits_to_a_follower_and_works_through_a_leader_kill(
    cluster: ProcessCluster, node_modules: Path
) -> None:
    leader = await cluster.await_leader(within_s=PATIENCE_S)
    addresses = {node_id: broker.address for node_id, broker in cluster.brokers.items()}
    followers = [node_id for node_id in addresses if node_id != leader.node_id]
    # The worker's connection is to the leader and breaks with it; the client's is to a follower.
    work_at = [addresses[node_id] for node_id in (leader.node_id, *followers)]
    submit_at = [addresses[node_id] for node_id in (*followers, leader.node_id)]

    async with node_client(",".join(submit_at), ",".join(work_at), str(TASKS)) as node:
        submitted = await node.until("submitted")
        assert submitted["leader"] in addresses.values(), "it was not told who leads"
        result = await node.until("result")
        assert (result["state"], result["result"]) == ("TASK_STATE_COMPLETED", "THE FIRST")

        await node.until("claimed", lambda event: event["inAll"] >= 20)
        # Asked again: a slow disk may have made the first one hand over.
        killed = await cluster.await_leader(within_s=PATIENCE_S)
        cluster.kill(killed.node_id)
        print(f"node: SIGKILL for {killed.node_id}, {killed.address}")  # noqa: T201  # as above
        await node.until("leader", lambda event: event["leader"] != killed.address)
        done = await node.until("done")
        assert await asyncio.wait_for(node.process.wait(), EVENT_S) == 0

    assert (done["tasks"], done["wrong"]) == (TASKS, 0)
    assert done["reported"] == TASKS + 1, "the first and each of the others, once"
    assert done["lost"] == 0, "a failover costs no lease"
    async with AsyncClient(work_at) as client:
        tasks = [task async for task in client.list_tasks(queue="node")]
        assert len(tasks) == TASKS + 1
        for task in tasks:
            whole = await client.get(task.task_id)
            assert whole.state == TaskState.COMPLETED
            assert [attempt.end for attempt in whole.attempts] == [AttemptEnd.COMPLETED]


async def test_a_node_client_reads_the_reason_of_a_refusal(
    cluster: ProcessCluster, node_modules: Path
) -> None:
    program = """
        import { call, connect } from "./tq.mjs";
        const { tasks } = connect([process.argv[1]]);
        call(tasks, "GetTask", { taskId: "nobody-submitted-this" }).catch((error) => {
          console.log(JSON.stringify({ code: error.code, reason: error.reason }));
          process.exit(0);
        });
    """
    address = cluster.brokers["n1"].address
    process = await asyncio.create_subprocess_exec(
        *("node", "--input-type=module", "--eval", program, address),
        cwd=NODE_FOLDER,
        stdout=asyncio.subprocess.PIPE,
    )

    printed, _ = await asyncio.wait_for(process.communicate(), EVENT_S)

    assert json.loads(printed) == {"code": 5, "reason": "NOT_FOUND"}


async def test_a_node_worker_and_client_make_their_calls_in_one_conversation(
    cluster: ProcessCluster, node_modules: Path
) -> None:
    program = """
        import { connect, reasonIn, seconds } from "./tq.mjs";
        const { conversations } = connect([process.argv[1]]);
        const stream = conversations.Converse();
        const said = {};
        const answer = {
          // The claim was waiting when the task came.
          claim: ({ tasks: [task] }) => {
            said.claimed = task.spec.type;
            const complete = { result: "done" };
            const reports = [{ taskId: task.spec.taskId, token: task.token, complete }];
            stream.write({ calls: [{ callId: 3, report: { workerId: "node", reports } }] });
          },
          submit: ({ results }) => {
            said.submitted = results.length;
          },
          report: ({ results: [result] }) => {
            said.reported = result.status;
            stream.write({ calls: [{ callId: 4, getTask: { taskId: "nobody-submitted-this" } }] });
          },
          failure: ({ code, details }) => {
            said.failed = { code, reason: reasonIn([details]) };
            stream.end();
          },
        };
        stream.on("data", ({ answers }) => {
          for (const each of answers) answer[each.answer](each[each.answer]);
        });
        stream.on("end", () => {
          console.log(JSON.stringify(said));
          process.exit(0);
        });
        const claim = {
          workerId: "node", queues: ["talk"], maxTasks: 1, requestId: "c1", wait: seconds(20),
        };
        const submit = { requestId: "s1", tasks: [{ queue: "talk", type: "greet" }] };
        stream.write({ calls: [{ callId: 1, timeout: seconds(30), claim }] });
        stream.write({ calls: [{ callId: 2, submit }] });
    """
    address = cluster.brokers["n1"].address
    process = await asyncio.create_subprocess_exec(
        *("node", "--input-type=module", "--eval", program, address),
        cwd=NODE_FOLDER,
        stdout=asyncio.subprocess.PIPE,
    )

    printed, _ = await asyncio.wait_for(process.communicate(), EVENT_S)

    assert json.loads(printed) == {
        "submitted": 1,
        "claimed": "greet",
        "reported": "STATUS_RECORDED",
        "failed": {"code": 5, "reason": "NOT_FOUND"},
    }
