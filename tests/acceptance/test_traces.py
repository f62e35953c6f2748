"""One trace, from a caller's span through three brokers and a worker into a handler's own span."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from chaos.cluster.processes import ProcessCluster
from chaos.cluster.workers import WorkerProcesses
from tests.collector import Collector, Received, collecting, render
from tests.patience import PATIENCE_S
from tests.spans import Spans, spans
from tq_client import AsyncClient, TaskState

__all__ = ["spans"]

pytestmark = pytest.mark.cluster

QUEUE = "pictures"
ROOT = Path(__file__).resolve().parents[2]
ENDS = ("attempt completed", "attempt failed", "attempt released")
BECAME = ["task submitted", "task assigned", "task dead"]
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest_asyncio.fixture
async def brokers(tmp_path: Path, collector: Collector) -> AsyncIterator[ProcessCluster]:
    environment = {**SOON, "TQ_OTLP_ENDPOINT": collector.address, "TQ_LOG_TASKS": "1"}
    async with ProcessCluster(tmp_path / "cluster", environment=environment) as cluster:
        await cluster.await_caught_up(cluster.brokers, within_s=PATIENCE_S)
        yield cluster


@pytest_asyncio.fixture
async def worker(
    tmp_path: Path, brokers: ProcessCluster, collector: Collector
) -> AsyncIterator[WorkerProcesses]:
    workers = WorkerProcesses(
        tmp_path / "worker",
        brokers.addresses,
        count=1,
        handlers="tests.acceptance.traced_handlers",
        queue=QUEUE,
        options=(
            *("--otlp-endpoint", f"http://{collector.address}"),
            *("--log-tasks", "--log-format", "json", "--worker-id", "w1"),
        ),
        environment={**SOON, "PYTHONPATH": str(ROOT)},
    )
    workers.start()
    yield workers
    await workers.stop()


def path_to(span: Received, spans: list[Received]) -> list[str]:
    """The names from the root down to a span."""
    by_id = {each.span_id: each for each in spans}
    names = [span.name]
    while (parent := by_id.get(span.parent_id)) is not None:
        names.insert(0, parent.name)
        span = parent
    return names


async def test_a_task_is_one_trace_from_its_caller_to_its_handlers_own_span(
    brokers: ProcessCluster,
    worker: WorkerProcesses,
    collector: Collector,
    spans: Spans,
) -> None:
    exporter = OTLPSpanExporter(endpoint=f"http://{collector.address}")
    spans.provider.add_span_processor(SimpleSpanProcessor(exporter))
    # One submit by way of a follower, which sends it on, and one to the leader itself.
    leader = await brokers.await_leader(within_s=PATIENCE_S)
    follower = next(each for name, each in brokers.brokers.items() if name != leader.node_id)

    straight = brokers.brokers[leader.node_id].address
    async with AsyncClient([follower.address]) as detour, AsyncClient([straight]) as client:
        with spans.tracer.start_as_current_span("order"):
            task_id = await detour.submit(QUEUE, "resize", task_id="picture-1")
            broken_id = await client.submit(QUEUE, "broken", task_id="picture-2")
        await client.wait(task_id, timeout_s=60)
        done = await client.wait(f"{task_id}-store", timeout_s=60)
        failed = await client.wait(broken_id, timeout_s=60)
    assert done.state == TaskState.COMPLETED
    assert failed.state == TaskState.FAILED
    of_each_task = ("tq.claim", "tq report")
    found = await asyncio.to_thread(
        collector.await_named,
        *("order", "run resize", "read picture", "run store", "write file", "run broken"),
        *("tq submit", "tq submit", "tq.submit", "tq.submit", "tq.submit"),
        *of_each_task * 3,
    )
    print(render(found))  # noqa: T201  # shown by pytest when the test failed

    one = {span.name: span for span in found}
    assert {span.trace_id for span in found} == {one["order"].trace_id}
    granted = ["order", "tq submit", "tq.claim"]
    assert path_to(one["read picture"], found) == [*granted, "run resize", "read picture"]
    # What a handler submits goes on from its own span.
    assert path_to(one["write file"], found) == [
        *(*granted, "run resize"),
        *("tq.claim", "run store", "write file"),
    ]
    passed = [path_to(span, found) for span in found if span.name == "tq.submit"]
    assert ["order", "tq submit", "tq.submit", "tq.submit"] in passed, "the follower, the leader"
    resize = one["run resize"]
    assert (resize.service, resize.kind, resize.failed) == ("tq-worker", "CONSUMER", False)
    assert resize.attributes == {
        "messaging.system": "tq",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": QUEUE,
        "messaging.message.id": "picture-1",
        "tq.task.type": "resize",
        "tq.task.attempt": 1,
        "tq.attempt.outcome": "complete",
    }
    assert one["run broken"].failed
    assert one["run broken"].attributes["error.type"] == "PermanentError"
    assert one["run broken"].status == "PermanentError: no such picture"
    assert one["tq report"].attributes["messaging.operation.type"] == "settle"
    assert one["tq.claim"].service == "tq-cluster"
    for name in ("tq submit", "run resize", "read picture"):
        parent = next(each for each in found if each.span_id == one[name].parent_id)
        assert parent.start_ns <= one[name].start_ns

    lines = [json.loads(line) for line in worker.log_path("w1").read_text().splitlines()]
    of_trace = [line["event"] for line in lines if line.get("trace_id") == one["order"].trace_id]
    assert "picture read" in of_trace
    assert of_trace.count("attempt started") == 3
    ends = {line["task_id"]: line["event"] for line in lines if line["event"] in ENDS}
    assert ends == {
        "picture-1": "attempt completed",
        "picture-1-store": "attempt completed",
        "picture-2": "attempt failed",
    }
    said = next(line for line in lines if line["event"] == "picture read")
    assert said["span_id"] == one["read picture"].span_id

    logged = "".join(broker.log_path.read_text() for broker in brokers.brokers.values())
    task_lines = sorted(line for line in logged.splitlines() if "task_id=picture-2" in line)
    assert [event for line in task_lines for event in BECAME if event in line] == BECAME
    assert all(f"trace_id={one['order'].trace_id}" in line for line in task_lines)
    assert "attempt=1 worker_id=w1 reason=PERMANENT_ERROR" in task_lines[-1]
