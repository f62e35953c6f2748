"""Three real brokers on loopback, in a folder that is removed afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from chaos.cluster.broker import TQ_CLUSTER
from chaos.cluster.processes import ProcessCluster
from chaos.interrupts import end_in_order
from tq_client import AsyncClient, TqError, task_spec
from tq_process.memory import held_bytes

PAYLOAD_BYTES = 256
FILL_BATCH = 1_000


@asynccontextmanager
async def brokers(
    data_dir: Path | None, launcher: Sequence[str] = TQ_CLUSTER
) -> AsyncIterator[ProcessCluster]:
    """Start three brokers and wait for a leader; their data goes below ``data_dir``.

    They end with this context, also after SIGINT and SIGTERM. ``launcher``: arguments of the
    interpreter, in place of ``-m tq_cluster``.
    """
    end_in_order()
    with tempfile.TemporaryDirectory(prefix="tq-benchmark-", dir=data_dir) as folder:
        async with ProcessCluster(Path(folder), launcher=launcher) as cluster:
            yield cluster


def payload() -> bytes:
    """Make the 256 bytes that every benchmark's tasks carry."""
    return bytes(range(256)) * (PAYLOAD_BYTES // 256)


async def fill(client: AsyncClient, queue: str, task_type: str, count: int) -> None:
    """Submit ``count`` tasks in large calls, one after the other."""
    spec = task_spec(queue, task_type, payload())
    for done in range(0, count, FILL_BATCH):
        batch = [spec] * min(FILL_BATCH, count - done)
        for outcome in await client.submit_many(batch):
            if isinstance(outcome, TqError):
                raise outcome


def anonymous_bytes(pid: int) -> int:
    """Read a process's anonymous memory: without LMDB's mapped file, which is page cache."""
    return held_bytes(pid)


def cpu_s(pid: int) -> float:
    """Read how much processor time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pids(cluster: ProcessCluster) -> list[int]:
    """List the process ids of the brokers that run."""
    return [broker.pid for broker in cluster.brokers.values() if broker.pid is not None]
