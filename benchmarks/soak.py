"""What a cluster's disks hold while work goes on and after a burst: `python -m benchmarks.soak`.

A steady stream of tasks is submitted and worked off all the time. In the middle a burst piles up on
a queue of its own without workers, and is then drained. The journal has to stay within its bound
throughout, and the disks have to come back to what they held before the burst.

With `--rate` there is no burst: as many tasks a second are submitted, run, kept and removed for as
long as `--minutes` says, and rows, memory and disk have to stay flat once the first are removed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import steady
from benchmarks.cluster import brokers
from benchmarks.work import worker
from chaos.cluster.processes import ProcessCluster
from tq_client import AsyncClient, TqError, task_spec

STEADY, BURST = "bench", "burst"
PAYLOAD_BYTES = 4_096
STEADY_BATCH = 50
STEADY_EVERY_S = 0.25
BURST_BATCH = 200
RETENTION = timedelta(seconds=1)
JOURNAL_MAX_BYTES = 128 << 20
"""64 MiB are retained, and once a second the excess is cut off."""
BASELINE_FACTOR = 2.0
"""The factor of the size before the burst at which the disks are back: pages come in halves."""
SETTLE_S = 240.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The disk use of the broker that holds the most, and the progress of the work."""

    at_s: float
    phase: str
    journal_bytes: int
    state_bytes: int
    waiting: int
    kept: int


class Soak:
    """One run of the benchmark."""

    def __init__(self, cluster: ProcessCluster, client: AsyncClient, console: Console) -> None:
        self._cluster = cluster
        self._client = client
        self._console = console
        self._draw = random.Random(1)
        self._began_s = time.monotonic()
        self.readings: list[Reading] = []

    async def stream(self) -> None:
        """Submit at a steady pace until cancelled."""
        while True:
            await self._submit(STEADY, STEADY_BATCH)
            await asyncio.sleep(STEADY_EVERY_S)

    async def burst(self, tasks: int) -> None:
        """Submit the burst as fast as the brokers take it."""
        for _ in range(0, tasks, BURST_BATCH):
            await self._submit(BURST, BURST_BATCH)

    async def watch(self, phase: str, seconds: float) -> Reading:
        """Read every few seconds for ``seconds``; return the last reading."""
        until_s = time.monotonic() + seconds
        while True:
            await asyncio.sleep(min(5.0, max(0.0, until_s - time.monotonic())))
            reading = await self.read(phase)
            if time.monotonic() >= until_s:
                return reading

    async def drained(self, phase: str) -> None:
        """Watch until the burst is gone."""
        while (await self.watch(phase, 2.0)).waiting > STEADY_BATCH * 20:
            pass

    async def back(self, phase: str, baseline_bytes: int) -> bool:
        """Watch until the disks hold what they held before; False if that takes too long."""
        until_s = time.monotonic() + SETTLE_S
        while time.monotonic() < until_s:
            if (await self.watch(phase, 5.0)).state_bytes <= baseline_bytes * BASELINE_FACTOR:
                return True
        return False

    async def read(self, phase: str) -> Reading:
        """Take one reading."""
        status = await self._client.cluster_status()
        queues = [
            await self._client.queue_stats(name) for name in (STEADY, BURST) if self._known(name)
        ]
        reading = Reading(
            at_s=time.monotonic() - self._began_s,
            phase=phase,
            journal_bytes=max(node.journal_bytes for node in status.nodes),
            state_bytes=max(node.state_bytes for node in status.nodes),
            waiting=sum(stats.pending + stats.running for stats in queues),
            kept=sum(stats.completed for stats in queues),
        )
        self.readings.append(reading)
        self._console.print(
            f"{reading.at_s:6.0f} s  {phase:<9} journal {reading.journal_bytes / 1e6:6.1f} MB"
            f"  state {reading.state_bytes / 1e6:7.1f} MB  waiting {reading.waiting:>8,}"
            f"  finished and kept {reading.kept:>9,}"
        )
        return reading

    def _known(self, queue: str) -> bool:
        return queue == STEADY or any(reading.phase != "steady" for reading in self.readings)

    async def _submit(self, queue: str, count: int) -> None:
        specs = [
            task_spec(queue, "noop", self._draw.randbytes(PAYLOAD_BYTES), retention=RETENTION)
            for _ in range(count)
        ]
        for outcome in await self._client.submit_many(specs):
            if isinstance(outcome, TqError):
                raise outcome


async def run(tasks: int, steady_s: float, console: Console) -> list[str]:
    """Run the benchmark; return the bounds that were broken."""
    async with brokers(None) as cluster, AsyncClient(cluster.addresses) as client:
        soak = Soak(cluster, client, console)
        with worker(cluster.addresses, STEADY, cluster.folder / "steady.log"):
            stream = asyncio.create_task(soak.stream())
            try:
                baseline = await soak.watch("steady", steady_s)
                piling = asyncio.create_task(soak.burst(tasks))
                while not piling.done():
                    await soak.watch("burst", 2.0)
                await piling
                with worker(cluster.addresses, BURST, cluster.folder / "burst.log"):
                    await soak.drained("draining")
                is_back = await soak.back("after", baseline.state_bytes)
                await soak.watch("after", steady_s)
            finally:
                stream.cancel()
                await asyncio.gather(stream, return_exceptions=True)
    console.print(_summary(soak.readings))
    faults = []
    journal_bytes = max(reading.journal_bytes for reading in soak.readings)
    if journal_bytes > JOURNAL_MAX_BYTES:
        faults.append(f"the journal grew to {journal_bytes / 1e6:.0f} MB")
    if not is_back:
        faults.append(f"the state did not come back to {BASELINE_FACTOR:g} times its baseline")
    return faults


def _summary(readings: list[Reading]) -> Table:
    table = Table(title="the most that one broker held", title_justify="left")
    for column in ("phase", "journal MB", "state MB", "waiting"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in dict.fromkeys(reading.phase for reading in readings):
        of_phase = [reading for reading in readings if reading.phase == phase]
        table.add_row(
            phase,
            f"{max(reading.journal_bytes for reading in of_phase) / 1e6:.1f}",
            f"{max(reading.state_bytes for reading in of_phase) / 1e6:.1f}"
            f" (last {of_phase[-1].state_bytes / 1e6:.1f})",
            f"{max(reading.waiting for reading in of_phase):,}",
        )
    return table


def main() -> None:
    """Run the benchmark and print the curve; exit code 1 if a bound was broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--tasks", type=int, default=60_000, help="in the burst, of 4 KiB each")
    parser.add_argument("--steady", type=float, default=60.0, help="seconds before and after it")
    parser.add_argument("--rate", type=float, help="tasks a second, without a burst")
    parser.add_argument("--minutes", type=float, default=30.0, help="for how long, with --rate")
    parser.add_argument(
        "--retention", type=float, default=60.0, help="seconds that each is kept, with --rate"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", default=Path("soak.svg"), help="with --rate"
    )
    arguments = parser.parse_args()
    if arguments.rate is not None:
        console = Console(width=240)
        faults = asyncio.run(
            steady.run(
                rate=arguments.rate,
                minutes=arguments.minutes,
                retention_s=arguments.retention,
                plot=arguments.plot,
                console=console,
            )
        )
    else:
        faults = asyncio.run(run(arguments.tasks, arguments.steady, Console(width=120)))
    if faults:
        sys.exit("; ".join(faults))


if __name__ == "__main__":
    main()
