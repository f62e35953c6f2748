"""Three containers of brokers and two of workers, one killed, one paused, no task lost."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Final

import pytest

from tests.compose.stack import (
    METRICS,
    NODES,
    WORKERS,
    Stack,
    Watch,
    await_fact,
    compose_commands,
    run,
)
from tq.v1.task_pb2 import TaskState
from tq_client import AsyncClient, task_spec

pytestmark = pytest.mark.compose

SIGKILLED: Final = 137
BATCH = 20
PAUSE_S = 0.1


class Load:
    """Submits a batch of tasks ten times a second, and remembers what was acknowledged."""

    def __init__(self, client: AsyncClient) -> None:
        self.payloads: dict[str, bytes] = {}
        self.worst_s = 0.0
        """The longest that one submit took: the outage as its caller felt it."""
        self._client = client
        self._enough = asyncio.Event()

    async def run(self) -> None:
        for batch in itertools.count():
            if self._enough.is_set():
                return
            payloads = [f"task {batch}.{item}".encode() for item in range(BATCH)]
            specs = [task_spec("default", "echo", payload) for payload in payloads]
            started_s = time.monotonic()
            for payload, task_id in zip(
                payloads, await self._client.submit_many(specs), strict=True
            ):
                assert isinstance(task_id, str), f"{payload!r} was refused: {task_id}"
                self.payloads[task_id] = payload
            self.worst_s = max(self.worst_s, time.monotonic() - started_s)
            await asyncio.sleep(PAUSE_S)

    def stop(self) -> None:
        self._enough.set()

    async def goes_on(self) -> None:
        """Wait until what is submitted from now on is acknowledged."""
        wanted = len(self.payloads) + 2 * BATCH

        async def more() -> bool | None:
            return len(self.payloads) >= wanted or None

        await await_fact(f"{wanted} acknowledged tasks", more, 30, lambda: str(len(self.payloads)))


def say(line: str) -> None:
    print(f"compose: {line}", flush=True)  # noqa: T201  # the story, for the log of the run


async def test_containers_killed_and_paused_cost_no_task_and_the_cluster_heals(
    stack: Stack,
) -> None:
    started_s = time.monotonic()
    stack.up()
    watch = Watch()
    leader = await watch.await_whole()
    say(f"three brokers and two workers up, {leader.node_id} leads in term {leader.term}")

    async with AsyncClient(NODES.values()) as client:
        load = Load(client)
        submitting = asyncio.create_task(load.run())
        await load.goes_on()

        await asyncio.to_thread(stack.kill, leader.node_id)
        second = await watch.await_leader(other_than=leader.node_id)
        await load.goes_on()
        assert stack.state(leader.node_id)["ExitCode"] == SIGKILLED
        say(f"{leader.node_id} killed; {second.node_id} leads in term {second.term}, submits go on")
        await asyncio.to_thread(stack.start, leader.node_id)
        await watch.await_whole()
        say(f"{leader.node_id} started again; the cluster is whole")

        await asyncio.to_thread(stack.pause, second.node_id)
        third = await watch.await_leader(other_than=second.node_id)
        await load.goes_on()
        say(f"{second.node_id} paused; {third.node_id} leads in term {third.term}, submits go on")
        await asyncio.to_thread(stack.unpause, second.node_id)
        await watch.await_whole()
        say(f"{second.node_id} runs on; the cluster is whole")

        load.stop()
        await submitting
        await _all_complete(client, load)
    say(f"{len(load.payloads)} tasks acknowledged, all completed with their own results")
    say(f"the longest that a submit took: {load.worst_s:.2f} s")

    assert [target for target in METRICS if "tq_commit_index" not in stack.metrics(target)] == []
    say("every broker's metrics are where Prometheus looks for them")
    await _healthy(stack)
    say("Docker finds every broker healthy")
    assert [stack.state(worker)["Status"] for worker in WORKERS] == ["running", "running"]

    stack.compose("stop")
    codes = {service: stack.state(service)["ExitCode"] for service in (*NODES, *WORKERS)}
    assert set(codes.values()) == {0}, f"not every container ended by itself: {codes}"
    stack.down()
    assert stack.left_behind() == []
    say(f"stopped gracefully and taken down, {time.monotonic() - started_s:.0f} s in all")


async def _all_complete(client: AsyncClient, load: Load) -> None:
    """Every acknowledged task is COMPLETED, once, with the result of its own payload."""
    for task_id, payload in load.payloads.items():
        task = await client.wait(task_id, timeout_s=60)
        assert task.state == TaskState.TASK_STATE_COMPLETED, f"{task}"
        assert task.result == payload, f"{task}"
    stats = await client.queue_stats("default")
    assert stats.completed == len(load.payloads), f"{stats}"


async def _healthy(stack: Stack) -> None:
    def health() -> dict[str, str]:
        return {node_id: stack.state(node_id)["Health"]["Status"] for node_id in NODES}

    async def all_healthy() -> bool | None:
        return set(health().values()) == {"healthy"} or None

    await await_fact("health checks that pass", all_healthy, 60, lambda: str(health()))


async def test_a_broker_without_a_majority_is_found_unhealthy(stack: Stack) -> None:
    stack.up()
    await Watch().await_whole()

    for node_id in ("n1", "n2"):
        stack.kill(node_id)

    async def noticed() -> bool | None:
        return stack.state("n3")["Health"]["Status"] == "unhealthy" or None

    await await_fact("n3 to be unhealthy", noticed, 90, lambda: str(stack.state("n3")["Health"]))


@pytest.mark.parametrize("compose", compose_commands(), ids=" ".join)
def test_every_compose_takes_the_file_with_and_without_monitoring(compose: list[str]) -> None:
    compose = [*compose, "--file", "docker-compose.cluster.yml"]

    run([*compose, "config", "--quiet"])
    everything = run([*compose, "--profile", "monitoring", "config", "--services"]).split()

    assert set(everything) == {*NODES, *WORKERS, "prometheus", "grafana"}


def test_the_image_has_the_three_commands_and_no_root() -> None:
    command = ["docker", "run", "--rm", "--network", "none", "--read-only", "tq:local"]

    assert run([*command, "id", "-u"]).strip() == "10001"
    for tool in ("tq-cluster", "tq-worker", "tq-admin"):
        assert tool in run([*command, tool, "--help"])
