"""`tq-admin stats` and `queue-depth`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tq_admin.failures import doing
from tq_admin.output import cell, grid, rate
from tq_admin.plain import Plain, plain
from tq_admin.readings import DEPTHS, TOTALS, Rates, Reading, depth, together
from tq_admin.session import Session
from tq_client import QueueStats
from tq_common import durations

BAR_COLUMNS = 40
SHORT = {"submitted": "in", "completed": "done"}
STYLES = {
    "pending": "cyan",
    "running": "blue",
    "retrying": "yellow",
    "scheduled": "magenta",
    "blocked": "white",
}


def stats(
    session: Session,
    interval: Annotated[
        str, typer.Option(metavar="SPAN", help="Between the two readings that give the rates.")
    ] = "2s",
) -> None:
    """Show how much is in every queue, and how fast tasks come, run and end."""
    try:
        interval_s = durations.parse(interval).total_seconds()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--interval") from None
    with doing("cannot read the queues"):
        earlier = Reading.of(session.client.list_queues())
        session.pause(interval_s)
        later = Reading.of(session.client.list_queues())
    rates = later.rates_since(earlier)
    data = _data(later, rates, later.at_s - earlier.at_s)
    session.output.show(data, lambda: _table(later.queues, rates))
    session.output.remark(
        f"Rates over {later.at_s - earlier.at_s:.1f} s. "
        "DONE and FAILED are since the queue was created."
    )


def queue_depth(session: Session) -> None:
    """Show how deep every queue is, as bars: what waits and what runs."""
    with doing("cannot read the queues"):
        queues = list(session.client.list_queues())
    data = [
        {"queue": each.queue, "depth": depth(each)} | {name: getattr(each, name) for name in DEPTHS}
        for each in queues
    ]
    session.output.show(data, lambda: _bars(queues))


def bar(stats: QueueStats, deepest: int, columns: int) -> Text:
    """A queue's depth as a bar, in the colours of its tasks' states; the deepest fills it."""
    drawn = Text()
    total = depth(stats)
    length = 0 if not total else max(1, round(columns * total / max(deepest, 1)))
    end, so_far = 0, 0
    for name in DEPTHS:
        so_far += getattr(stats, name)
        upto = round(length * so_far / max(total, 1))
        drawn.append("█" * (upto - end), style=STYLES[name])
        end = upto
    return drawn


def legend() -> Text:
    """What the bars' colours mean."""
    shown = Text()
    for name in DEPTHS:
        shown.append("█ ", style=STYLES[name])
        shown.append(f"{name}  ", style="dim")
    return shown


def _bars(queues: Sequence[QueueStats]) -> RenderableType:
    deepest = max(map(depth, queues), default=0)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    table.add_column()
    for each in sorted(queues, key=lambda each: (-depth(each), each.queue)):
        paused = Text("paused", style="yellow") if each.settings.paused else Text()
        table.add_row(cell(each.queue), f"{depth(each):,}", bar(each, deepest, BAR_COLUMNS), paused)
    return Group(table, Text(), legend())


def _data(reading: Reading, rates: dict[str, Rates], seconds: float) -> Plain:
    per_s = {
        queue: {f"{name}_per_s": each[name] for name in TOTALS} for queue, each in rates.items()
    }
    return {
        "interval_s": round(seconds, 3),
        "total": {f"{name}_per_s": value for name, value in together(rates).items()},
        "queues": [plain(each.message) | {"rates": per_s[each.queue]} for each in reading.queues],
    }


def _table(queues: Sequence[QueueStats], rates: dict[str, Rates]) -> RenderableType:
    columns = (
        *("QUEUE", "WAITING", "RUNNING", "DONE", "FAILED"),
        *(f"{SHORT.get(name, name).upper()}/s" for name in TOTALS),
    )
    rows: list[tuple[object, ...]] = [
        (
            each.queue,
            depth(each) - each.running,
            each.running,
            each.totals.completed,
            each.totals.failed,
            *(rate(rates[each.queue][name], unit="") for name in TOTALS),
        )
        for each in queues
    ]
    if len(queues) > 1:
        sums = [sum(int(str(row[place])) for row in rows) for place in range(1, 5)]
        rows.append(
            (
                Text("all", style="bold"),
                *sums,
                *(rate(value, unit="") for value in together(rates).values()),
            )
        )
    optional = ("CANCELLED/s", "CLAIMED/s", "RETRIED/s")
    return grid(columns, rows, right=columns[1:], optional=optional)
