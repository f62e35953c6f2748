"""Whether the cost of a claim is independent of the number of waiting tasks."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from benchmarks.cluster import brokers, fill
from benchmarks.figures import Figure, Samples
from tq.v1.worker_service_pb2 import ClaimRequest, Completion, ReportRequest, TaskReport
from tq_client import AsyncClient

DEPTHS = (1_000, 10_000, 100_000, 1_000_000)
CLAIMS = 500
WARM_UP = 50
FLAT_RATIO = 1.5
"""The limit for flat: the deepest queue's p50 divided by the shallowest one's."""


async def by_depth(data_dir: Path | None) -> list[Figure]:
    """Measure single claims of one task at each depth in turn, in one queue that is refilled."""
    figures: list[Figure] = []
    medians_ms: list[float] = []
    pending = 0
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:
        for depth in DEPTHS:
            # Never fewer than `depth` wait while claims are measured.
            needed = depth + CLAIMS + WARM_UP
            await fill(client, "bench", "noop", needed - pending)
            samples = await _claim(client)
            stats = await client.queue_stats("bench")
            pending = stats.pending
            if pending != depth:
                raise AssertionError(f"{pending:,} tasks are pending, not {depth:,}")
            medians_ms.append(samples.percentile(50) * 1e3)
            figures.append(
                Figure(
                    name=f"claim: one task, {depth:,} pending, p50",
                    value=medians_ms[-1],
                    unit="ms",
                    detail=f"p99 {samples.percentile(99) * 1e3:.1f} ms of {CLAIMS} claims",
                )
            )
    ratio = medians_ms[-1] / medians_ms[0]
    return [
        Figure(
            name=f"claim: {DEPTHS[-1]:,} pending over {DEPTHS[0]:,}, p50",
            value=ratio,
            unit="times",
            target=FLAT_RATIO,
            detail="flat is about 1",
        ),
        *figures,
    ]


async def _claim(client: AsyncClient) -> Samples:
    """Claim one task at a time, then complete them all, unmeasured."""
    samples = Samples()
    worker_id = f"bench-{uuid.uuid4().hex}"
    reports: list[TaskReport] = []
    for number in range(CLAIMS + WARM_UP):
        begun_s = time.perf_counter()
        report = await claim(client, worker_id)
        if number >= WARM_UP:
            samples.add(time.perf_counter() - begun_s)
        reports.append(report)
    await client.report(ReportRequest(worker_id=worker_id, reports=reports))
    return samples


async def claim(client: AsyncClient, worker_id: str) -> TaskReport:
    """Claim one task of the queue; return the report that completes it."""
    request = ClaimRequest(
        worker_id=worker_id, queues=["bench"], max_tasks=1, lease=Duration(seconds=600)
    )
    [task] = (await client.claim(request)).reply.tasks
    return TaskReport(task_id=task.spec.task_id, token=task.token, complete=Completion())
