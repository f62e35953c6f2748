"""Write outages: their distribution over many killed leaders."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import outage
from benchmarks.figures import percentile
from benchmarks.plot import Axis, Limit, Line, Panel, picture
from benchmarks.plots.sizes import Sizes
from chaos.cluster.processes import ProcessCluster


@dataclass(slots=True, kw_only=True)
class Outages:
    """How long writes were out after each kill, in the order of the kills."""

    wanted: int = 0
    ms: list[float] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not self.ms


async def measure(sizes: Sizes, data_dir: Path | None, found: Outages) -> None:
    """Kill one leader after the other."""
    found.wanted = sizes.kills
    until_s = time.monotonic() + sizes.minutes * 60
    kills = outage.outages(data_dir, sizes.kills, ProcessCluster.kill, ProcessCluster.restart)
    async with aclosing(kills):
        async for length_s in kills:
            found.ms.append(length_s * 1e3)
            if time.monotonic() >= until_s:
                break


def ecdf(values: Sequence[float]) -> list[tuple[float, float]]:
    """List the corners of the share of values that are not above a value, in percent."""
    corners = []
    share = 0.0
    for number, value in enumerate(sorted(values), 1):
        corners.append((value, share))
        share = number / len(values) * 100
        corners.append((value, share))
    return corners


def draw(found: Outages, facts: Sequence[str]) -> str:
    """Draw the distribution, with its median and its p99."""
    median, p99 = percentile(found.ms, 50), percentile(found.ms, 99)
    kills = len(found.ms)
    notes = [
        f"{kills:,} leaders killed with SIGKILL, one after the other; from each kill to the first"
        f" acknowledgement of a write that was sent after it, by one of {outage.WRITERS} writers."
        + (" With fewer than 100 kills the p99 is the worst." if kills < 100 else ""),
        *(
            [f"Not complete: {found.wanted:,} kills were asked for."]
            if kills < found.wanted
            else []
        ),
        *facts,
    ]
    panel = Panel(
        title=f"Write outages over {kills:,} leader kills",
        x=Axis(label="write outage, ms"),
        y=Axis(label="share of outages that are no longer, %", last=100.0),
        lines=[Line(label="outages", points=ecdf(found.ms), dots=False)],
        limits=[
            Limit(label=f"median {median:,.0f} ms", x=median),
            Limit(label=f"p99 {p99:,.0f} ms", x=p99),
        ],
    )
    return picture("How long writes are out when the leader is killed", notes, [panel])
