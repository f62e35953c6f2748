"""Throughput against latency: submits, and tasks from submit to done, at rising offered rates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.cluster import PAYLOAD_BYTES, brokers, payload
from benchmarks.plot import Axis, Limit, Line, Panel, picture
from benchmarks.plots.load import P99_MAX_MS, Step, climb
from benchmarks.plots.sizes import Sizes
from benchmarks.work import worker
from tq_client import AsyncClient

QUEUE: Final = "bench"
SUBMIT: Final = "submit"
DONE: Final = "submit to done"
SETTLE_S: Final = 30.0
"""How long tasks that remain from one rate may take to end before the next rate."""
LOOK_S: Final = 0.1
WAIT_S: Final = 600.0
"""Longer than a step: the step ends the waits that remain."""


@dataclass(slots=True, kw_only=True)
class Climb:
    """The steps of one kind of call, and why there were no more."""

    steps: list[Step] = field(default_factory=list)
    stopped: str = "interrupted"


@dataclass(slots=True, kw_only=True)
class Throughput:
    """What was measured, by kind of call."""

    climbs: dict[str, Climb] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not any(each.steps for each in self.climbs.values())


async def measure(sizes: Sizes, data_dir: Path | None, found: Throughput) -> None:
    """Climb once with submits, and once with tasks that a `tq-worker` runs; each has a cluster."""
    for kind in (SUBMIT, DONE):
        found.climbs[kind] = Climb()
        await _measure(kind, sizes, data_dir, found.climbs[kind])


async def _measure(kind: str, sizes: Sizes, data_dir: Path | None, found: Climb) -> None:
    body = payload()
    async with brokers(data_dir) as cluster, AsyncClient(cluster.addresses) as client:

        async def submit() -> None:
            await client.submit(QUEUE, "noop", body)

        async def to_done() -> None:
            await client.wait(await client.submit(QUEUE, "noop", body), timeout_s=WAIT_S)

        async def settle() -> None:
            """Wait until no task is left, if there is a worker."""
            until_s = asyncio.get_running_loop().time() + SETTLE_S
            while kind == DONE and asyncio.get_running_loop().time() < until_s:
                stats = await client.queue_stats(QUEUE)
                if not stats.pending + stats.running:
                    break
                await asyncio.sleep(LOOK_S)

        with ExitStack() as stack:
            if kind == DONE:
                stack.enter_context(worker(cluster.addresses, QUEUE, cluster.folder / "worker.log"))
                await to_done()
            found.stopped = await climb(
                to_done if kind == DONE else submit,
                sizes.rates,
                sizes.step,
                # Half of the time for each kind.
                until_s=asyncio.get_running_loop().time() + sizes.minutes * 60 / 2,
                found=found.steps.append,
                settle=settle,
            )


def draw(found: Throughput, facts: Sequence[str]) -> str:
    """Draw the latency over the achieved rate."""
    lines = []
    for place, (kind, each) in enumerate(found.climbs.items()):
        for percent, dashed in ((50, False), (99, True)):
            points = [
                (step.achieved_per_s, step.p99_ms if percent == 99 else step.p50_ms)
                for step in each.steps
                if step.achieved_per_s > 0
            ]
            lines.append(
                Line(label=f"{kind}, p{percent}", points=points, colour=place, dashed=dashed)
            )
    stops = "; ".join(f"{kind}: {each.stopped}" for kind, each in found.climbs.items())
    notes = [
        (
            f"Tasks of {PAYLOAD_BYTES} B begin by the clock, evenly spaced; each latency counts"
            " from the time at which its task should have begun. A dot is an offered rate."
        ),
        f"Why each line ends: {stops}.",
        *facts,
    ]
    panel = Panel(
        title="Latency at rising offered rates",
        x=Axis(label="achieved rate, tasks/s", log=True),
        y=Axis(label="latency, ms", log=True),
        lines=lines,
        limits=[Limit(label="a p99 above this ends the climb", y=P99_MAX_MS)],
    )
    return picture("Throughput against latency under offered load", notes, [panel])
