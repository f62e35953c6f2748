"""Cost against depth: a submit, a claim and the leader's memory, with ever more pending tasks."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.claims import claim
from benchmarks.cluster import PAYLOAD_BYTES, anonymous_bytes, brokers, fill, payload
from benchmarks.figures import Samples
from benchmarks.lone import scheduled_s
from benchmarks.plot import Axis, Line, Panel, picture
from benchmarks.plots.sizes import Sizes
from chaos.cluster.processes import ProcessCluster
from tq.v1.worker_service_pb2 import ReportRequest, TaskReport
from tq_client import AsyncClient

QUEUE: Final = "bench"
WARM_UP: Final = 50
WITHIN_S: Final = 20.0
SETTLE_S: Final = 3.0
IDLE_S: Final = 3.0
REPORTS: Final = 500
"""The reports of one call."""
FILL_S: Final = 60.0
FILL_PER_S: Final = 500
"""A fill slower than this, beyond its first minute, is a fault."""
DISK_BYTES_PER_TASK: Final = 4_000
"""Three brokers with some 640 B of state for each task, and a copy of each state in the making."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one call of a task costs; calls were made one after the other."""

    p50_ms: float
    p99_ms: float
    leader_cpu_ms: float
    """The processor time of the leader for one call, above its use while idle."""
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """What was measured with so many pending tasks."""

    pending: int
    submit: Cost
    claim: Cost
    leader_idle_cores: float
    leader_memory_mb: float
    """Anonymous memory, without the mapped file."""
    followers_memory_mb: list[float]
    state_mb: float
    """The file of the leader's state."""
    fill_per_s: float


@dataclass(slots=True, kw_only=True)
class Depths:
    """What was measured, and why there was no more."""

    depths: list[Depth] = field(default_factory=list)
    stopped: str = "interrupted"

    @property
    def empty(self) -> bool:
        return not self.depths


class NoRoomError(Exception):
    """The disk is too small for so many tasks."""


async def measure(sizes: Sizes, data_dir: Path | None, found: Depths) -> None:
    """Fill one queue ever deeper; measure at each depth."""
    _require_room(max(sizes.depths), data_dir or Path(tempfile.gettempdir()))
    until_s = time.monotonic() + sizes.minutes * 60
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:
        pending = 0
        for depth in sorted(sizes.depths):
            if time.monotonic() >= until_s:
                found.stopped = f"there was no time left for {depth:,} tasks"
                return
            begun_s = time.monotonic()
            try:
                async with asyncio.timeout(
                    min(FILL_S + (depth - pending) / FILL_PER_S, until_s - begun_s)
                ):
                    await fill(client, QUEUE, "noop", depth - pending)
            except TimeoutError:
                found.stopped = f"there was no time left to submit {depth:,} tasks"
                return
            rate = (depth - pending) / (time.monotonic() - begun_s)
            await asyncio.sleep(SETTLE_S)
            found.depths.append(await _at(depth, cluster, client, sizes, rate))
            pending = (await client.queue_stats(QUEUE)).pending
    found.stopped = "complete"


def _require_room(deepest: int, folder: Path) -> None:
    needed = deepest * DISK_BYTES_PER_TASK
    if (free := shutil.disk_usage(folder).free) < needed:
        raise NoRoomError(
            f"{deepest:,} tasks on three brokers need up to {needed / 1e9:.0f} GB in {folder},"
            f" which has {free / 1e9:.0f} GB; choose another folder with --data-dir"
        )


async def _at(
    depth: int, cluster: ProcessCluster, client: AsyncClient, sizes: Sizes, fill_per_s: float
) -> Depth:
    leader = (await cluster.await_leader(WITHIN_S)).node_id
    pids = {node: broker.pid for node, broker in cluster.brokers.items() if broker.pid is not None}
    memory_mb = {node: anonymous_bytes(pid) / 1e6 for node, pid in pids.items()}
    cpu_before_s, at_s = scheduled_s(pids[leader]), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    idle = (scheduled_s(pids[leader]) - cpu_before_s) / (time.perf_counter() - at_s)
    body = payload()
    worker_id = f"bench-{uuid.uuid4().hex}"
    claimed: list[TaskReport] = []

    async def submit_one() -> None:
        await client.submit(QUEUE, "noop", body)

    async def claim_one() -> None:
        claimed.append(await claim(client, worker_id))

    submit_cost = await _cost(submit_one, sizes, pids[leader], idle)
    # The submits made it deeper, and never fewer than `depth` wait.
    claim_cost = await _cost(claim_one, sizes, pids[leader], idle)
    for first in range(0, len(claimed), REPORTS):
        reports = claimed[first : first + REPORTS]
        await client.report(ReportRequest(worker_id=worker_id, reports=reports))
    status = await client.cluster_status()
    if (now := (await cluster.await_leader(WITHIN_S)).node_id) != leader:
        raise AssertionError(f"{leader} led at first, and {now} at the end: measure again")
    return Depth(
        pending=depth,
        submit=submit_cost,
        claim=claim_cost,
        leader_idle_cores=idle,
        leader_memory_mb=memory_mb.pop(leader),
        followers_memory_mb=list(memory_mb.values()),
        state_mb=next(n.state_bytes for n in status.nodes if n.node_id == leader) / 1e6,
        fill_per_s=fill_per_s,
    )


async def _cost(
    call: Callable[[], Awaitable[None]], sizes: Sizes, leader_pid: int, idle: float
) -> Cost:
    """Make calls one after the other, until there are enough of them or the time is over."""
    for _ in range(WARM_UP):
        await call()
    samples = Samples()
    cpu_before_s, begun_s = scheduled_s(leader_pid), time.perf_counter()
    while len(samples.values) < sizes.calls and time.perf_counter() - begun_s < sizes.calls_s:
        sent_s = time.perf_counter()
        await call()
        samples.add(time.perf_counter() - sent_s)
    cpu_s = scheduled_s(leader_pid) - cpu_before_s - idle * (time.perf_counter() - begun_s)
    return Cost(
        p50_ms=samples.percentile(50) * 1e3,
        p99_ms=samples.percentile(99) * 1e3,
        leader_cpu_ms=cpu_s / len(samples.values) * 1e3,
        calls=len(samples.values),
    )


def draw(found: Depths, facts: Sequence[str]) -> str:
    """Draw time, processor time and memory over the number of pending tasks."""
    pending = Axis(label="pending tasks", log=True)

    def line(label: str, value: Callable[[Depth], float], colour: int, *, dashed: bool) -> Line:
        points = [(each.pending, value(each)) for each in found.depths]
        return Line(label=label, points=points, colour=colour, dashed=dashed)

    calls = min(min(each.submit.calls, each.claim.calls) for each in found.depths)
    notes = [
        (
            f"Tasks of {PAYLOAD_BYTES} B in one queue; {calls:,} submits, then {calls:,} claims,"
            " each of one task, one after the other. Processor time is above that of an idle"
            " leader."
        ),
        *([] if found.stopped == "complete" else [f"Not complete: {found.stopped}."]),
        *facts,
    ]
    panels = [
        Panel(
            title="Time of one call",
            x=pending,
            y=Axis(label="latency, ms"),
            lines=[
                line("submit, p50", lambda each: each.submit.p50_ms, 0, dashed=False),
                line("submit, p99", lambda each: each.submit.p99_ms, 0, dashed=True),
                line("claim, p50", lambda each: each.claim.p50_ms, 1, dashed=False),
                line("claim, p99", lambda each: each.claim.p99_ms, 1, dashed=True),
            ],
        ),
        Panel(
            title="Processor time of the leader for one call",
            x=pending,
            y=Axis(label="processor time, ms"),
            lines=[
                line("submit", lambda each: each.submit.leader_cpu_ms, 0, dashed=False),
                line("claim", lambda each: each.claim.leader_cpu_ms, 1, dashed=False),
            ],
        ),
        Panel(
            title="Anonymous memory of a broker, seconds after the tasks were submitted",
            x=pending,
            y=Axis(label="memory, MB"),
            lines=[
                line("leader", lambda each: each.leader_memory_mb, 2, dashed=False),
                line(
                    "larger follower",
                    lambda each: max(each.followers_memory_mb),
                    3,
                    dashed=True,
                ),
            ],
        ),
    ]
    return picture("Cost against the number of pending tasks", notes, panels)
