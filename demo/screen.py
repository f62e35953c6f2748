"""The terminal output of a run: events as they happen, and the current figures below them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chaos.cluster.processes import NodeStatus
from demo.proof import Line

PLAIN_EVERY_S = 5.0
SLICE_S = 0.25
BAR_WIDTH = 48
PANEL_WIDTH = 110
BARS = "▁▂▃▄▅▆▇█"
FAST_S, SLOW_S = 0.002, 0.5
OUTAGE_S = 0.1
_ROLE_STYLES = {
    NodeStatus.ROLE_LEADER: "bold green",
    NodeStatus.ROLE_FOLLOWER: "cyan",
    NodeStatus.ROLE_CANDIDATE: "yellow",
}


@dataclass(slots=True, kw_only=True)
class Standing:
    """The current figures of the run."""

    total: int
    submitted: int = 0
    completed: int = 0
    nodes: Mapping[str, NodeStatus | str] = field(default_factory=dict)
    slowest_s: Sequence[float] = ()
    """The slowest write of the probe in each of the last slices of time, the newest last."""


class Screen:
    """A live panel on a terminal; plain lines everywhere else."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._standing = Standing(total=total)
        self._started_s = time.monotonic()
        self._plain_at_s = 0.0
        self._live = (
            Live(self._panel(), console=console, refresh_per_second=8, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def event(self, text: str, style: str = "") -> None:
        """Print an event; it stays on the screen."""
        at = Text(f"{time.monotonic() - self._started_s:6.1f} s  ", style="dim")
        self._console.print(at + Text(text, style=style), soft_wrap=True)

    def show(self, standing: Standing) -> None:
        """Show the current figures."""
        self._standing = standing
        now_s = time.monotonic()
        if self._live is not None:
            self._live.update(self._panel())
        elif now_s >= self._plain_at_s:
            self._plain_at_s = now_s + PLAIN_EVERY_S
            self.event(
                f"submitted {standing.submitted:,}, completed {standing.completed:,}"
                f" of {standing.total:,}; {', '.join(map(str, _brief(standing.nodes)))}"
            )

    def proof(self, lines: Sequence[Line]) -> None:
        """Print the proof, each promise with whether it held."""
        table = Table(
            title="The proof",
            title_style="bold",
            title_justify="left",
            show_header=False,
            box=box.SIMPLE_HEAD,
        )
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for line in lines:
            mark = {None: " ", True: "[green]✓[/]", False: "[bold red]✗[/]"}[line.holds]
            style = "bold red" if line.holds is False else ""
            table.add_row(mark, Text(line.name, style=style), Text(line.value, style=style))
        self._console.print()
        self._console.print(table)
        broken = sum(line.holds is False for line in lines)
        if broken:
            self._console.print(f"[bold red]{broken} of these promises did not hold.[/]")
        else:
            self._console.print("[bold green]Every promise held.[/]")

    def _panel(self) -> RenderableType:
        standing = self._standing
        grid = Table.grid(padding=(0, 2))
        for name, done in (("submitted", standing.submitted), ("completed", standing.completed)):
            bar = ProgressBar(
                total=standing.total, completed=done, width=BAR_WIDTH, complete_style="green"
            )
            grid.add_row(name, bar, f"{done:,} of {standing.total:,}")
        slowest = standing.slowest_s[-BAR_WIDTH:]
        newest = (
            f"slowest write of each {SLICE_S:g} s, now {slowest[-1] * 1e3:.0f} ms"
            if slowest
            else ""
        )
        grid.add_row("writes", _sparkline(slowest), Text(newest, style="dim"))
        nodes = Table.grid(padding=(0, 2))
        for node_id, status in standing.nodes.items():
            nodes.add_row(Text(node_id, style="bold"), *_cells(status))
        elapsed_s = time.monotonic() - self._started_s
        return Panel(
            Group(grid, Text(), nodes),
            title=f"[bold]tq[/]  {elapsed_s:.0f} s",
            border_style="blue",
            padding=(1, 2),
            width=min(self._console.width, PANEL_WIDTH),
        )


def _sparkline(seconds: Sequence[float]) -> Text:
    """Draw latencies as bars, on a logarithmic scale from 2 ms to 0.5 s."""
    line = Text()
    for one in seconds:
        height = math.log(max(one, FAST_S) / FAST_S) / math.log(SLOW_S / FAST_S)
        style = "red" if one >= OUTAGE_S else "green"
        line.append(BARS[min(len(BARS) - 1, int(height * len(BARS)))], style=style)
    return line


def _cells(status: NodeStatus | str) -> list[Text]:
    if isinstance(status, str):
        return [Text(status, style="bold red")]
    role = NodeStatus.Role.Name(status.role).removeprefix("ROLE_").lower()
    return [
        Text(role, style=_ROLE_STYLES.get(status.role, "")),
        Text(f"term {status.term}"),
        Text(f"applied {status.applied_index:,}"),
        Text(f"journal {status.journal_bytes / 1e6:.1f} MB", style="dim"),
    ]


def _brief(nodes: Mapping[str, NodeStatus | str]) -> list[str]:
    return [
        f"{node_id} {status}"
        if isinstance(status, str)
        else f"{node_id} {NodeStatus.Role.Name(status.role).removeprefix('ROLE_').lower()}"
        f" term {status.term} applied {status.applied_index:,}"
        for node_id, status in nodes.items()
    ]
