"""A follower that lost its disk is replaced under load, with a million tasks in the state."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cluster import PAYLOAD_BYTES, anonymous_bytes, brokers, fill, payload
from benchmarks.figures import Figure, Samples
from chaos.cluster.processes import NodeStatus, ProcessCluster
from tq_client import AsyncClient
from tq_client.errors import ConflictError

TASKS = int(os.environ.get("TQ_SNAPSHOT_TASKS", "1000000"))
WRITERS = 8
PAUSE_S = 0.02
"""The pause between two writes of a writer: about 300 a second in all, which leaves cores free."""
BASELINE_S = 10.0
REPLACE_S = 30.0
REJOIN_S = 600.0
SAMPLE_S = 0.2


@dataclass(slots=True)
class _Peak:
    """The peak values of the brokers while the follower caught up."""

    leader_bytes: int = 0
    follower_bytes: int = 0
    leader_hold_s: float = 0.0
    follower_hold_s: float = 0.0
    writes: Samples = field(default_factory=Samples)


async def rejoin(data_dir: Path | None) -> list[Figure]:
    """Wipe a follower's disk with a million tasks and replace it while writes go on."""
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:
        leader_id = (await cluster.await_leader(30)).node_id
        await fill(client, "bench", "noop", TASKS)
        leader_id = (await cluster.await_leader(30)).node_id
        away_id = next(name for name in cluster.brokers if name != leader_id)
        cluster.kill(away_id)
        await asyncio.to_thread(shutil.rmtree, cluster.brokers[away_id].data_dir)
        before_bytes = _anonymous(cluster, leader_id)
        writing = _Writing(client)
        quiet = await writing.during(asyncio.sleep(BASELINE_S))
        peak = _Peak()
        begun_s = time.perf_counter()
        cluster.restart(away_id)
        peak.writes = await writing.during(
            _until_replaced(cluster, client, leader_id, away_id, peak)
        )
        took_s = time.perf_counter() - begun_s
        status = await cluster.node_status(leader_id)
        state_mb = status.state_bytes / 1e6 if isinstance(status, NodeStatus) else 0.0
        still_leads = isinstance(status, NodeStatus) and status.role == NodeStatus.ROLE_LEADER
    remark = "" if still_leads else f"; {leader_id}, whose disk was slow, handed over meanwhile"
    name = f"snapshot: with {TASKS:,} tasks of {PAYLOAD_BYTES} B"
    return [
        Figure(
            name=f"{name}, a write's p99 while a follower's disk is replaced",
            value=peak.writes.percentile(99) * 1e3,
            unit="ms",
            target=200,
            detail=(
                f"p50 {peak.writes.percentile(50) * 1e3:.1f} ms, "
                f"longest {max(peak.writes.values) * 1e3:.0f} ms; before, "
                f"p50 {quiet.percentile(50) * 1e3:.1f} ms, p99 {quiet.percentile(99) * 1e3:.1f} ms"
                f"{remark}"
            ),
        ),
        Figure(
            name=f"{name}, from an empty disk until the follower has caught up",
            value=took_s,
            unit="s",
            detail=f"state of {state_mb:.0f} MB; {len(peak.writes.values) / took_s:.0f} writes/s",
        ),
        Figure(
            name=f"{name}, anonymous memory the leader took more meanwhile",
            value=max(0, peak.leader_bytes - before_bytes) / 1e6,
            unit="MB",
            target=100,
            detail=f"of {before_bytes / 1e6:.0f} MB; held {peak.leader_hold_s * 1e3:.0f} ms",
        ),
        Figure(
            name=f"{name}, anonymous memory of the follower at most",
            value=peak.follower_bytes / 1e6,
            unit="MB",
            target=200,
            detail=f"held {peak.follower_hold_s * 1e3:.0f} ms at most",
        ),
    ]


async def _until_replaced(
    cluster: ProcessCluster, client: AsyncClient, leader_id: str, away_id: str, peak: _Peak
) -> None:
    async def replaced() -> bool | None:
        try:
            await client.replace_node(away_id)
        except ConflictError:
            return None
        return True

    async def caught_up() -> bool | None:
        await asyncio.sleep(SAMPLE_S)
        peak.leader_bytes = max(peak.leader_bytes, _anonymous(cluster, leader_id))
        peak.follower_bytes = max(peak.follower_bytes, _anonymous(cluster, away_id))
        statuses = await cluster.statuses([leader_id, away_id])
        leader, away = statuses[leader_id], statuses[away_id]
        if isinstance(leader, str) or isinstance(away, str):
            return None
        peak.leader_hold_s = max(peak.leader_hold_s, _hold_s(leader))
        peak.follower_hold_s = max(peak.follower_hold_s, _hold_s(away))
        behind = leader.commit_index - away.applied_index
        return True if behind < 100 and not away.message else None

    await cluster.await_fact(f"{away_id} to be replaced", replaced, REPLACE_S)
    await cluster.await_fact(f"{away_id} to have caught up", caught_up, REJOIN_S)


def _hold_s(status: NodeStatus) -> float:
    return status.loop_hold_max.ToTimedelta().total_seconds()


def _anonymous(cluster: ProcessCluster, node_id: str) -> int:
    pid = cluster.brokers[node_id].pid
    assert pid is not None, f"{node_id} is down"
    return anonymous_bytes(pid)


class _Writing:
    """Writers that each submit one task after the other."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def during(self, work: Coroutine[Any, Any, None]) -> Samples:
        """Run ``work``; return the latency of each write that was sent meanwhile."""
        samples = Samples()
        doing = asyncio.create_task(work)
        body = payload()

        async def write() -> None:
            while not doing.done():
                begun_s = time.perf_counter()
                await self._client.submit("bench", "noop", body)
                samples.add(time.perf_counter() - begun_s)
                await asyncio.sleep(PAUSE_S)

        await asyncio.gather(doing, *(write() for _ in range(WRITERS)))
        return samples
