"""The monitor's screen, whose parts share the terminal's rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import ConsoleDimensions, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tq.v1.cluster_service_pb2 import NodeStatus
from tq_admin.cluster import leader_of, uptime
from tq_admin.observer import HISTORY, Observation
from tq_admin.output import STATE_STYLES, latency, rate, size, span
from tq_admin.plain import enum_name
from tq_admin.readings import Rates, depth
from tq_admin.stats import bar
from tq_admin.workers import doing_now
from tq_client import QueueStats, Task
from tq_common.visible import visible

SPARKS = "▁▂▃▄▅▆▇█"
RATES = (
    ("submitted", "cyan"),
    ("claimed", "blue"),
    ("completed", "green"),
    ("retried", "yellow"),
    ("failed", "red"),
)
BAR_COLUMNS = 24
WIDE_COLUMNS = 110
LEAST_ROWS = 2


def draw(seen: Observation, dimensions: ConsoleDimensions) -> RenderableType:
    """One frame, cut to the terminal."""
    wide = dimensions.width >= WIDE_COLUMNS
    nodes = list(seen.cluster.nodes) if seen.cluster is not None else []
    queues = _most_urgent(seen)
    workers = list(seen.workers.workers) if seen.workers is not None else []
    # Headings, rules and the rates take the subtracted rows.
    rows = dimensions.height - len(nodes) - len(seen.troubles) - len(RATES) - 13
    queue_rows, worker_rows, dead_rows = _share(
        max(rows, 3 * LEAST_ROWS), [len(queues), len(workers), len(seen.dead)]
    )
    return Group(
        _heading(seen),
        *(
            Text(visible(trouble), style="red", no_wrap=True, overflow="ellipsis")
            for trouble in seen.troubles
        ),
        _part("nodes"),
        _nodes(nodes, wide=wide),
        _part("rates" if seen.led else "rates (none are known without a leader)"),
        _rates(seen.history),
        _part(
            "queues" if seen.led else "queues, as one node's disk has them", len(queues), queue_rows
        ),
        _queues(queues[:queue_rows], seen, wide=wide),
        _part(
            "workers" if seen.led else "workers, as last seen: who works, only a leader knows",
            len(workers),
            worker_rows,
        ),
        _workers(seen, worker_rows),
        _part("dead letters, the newest", _failed(queues), min(dead_rows, len(seen.dead))),
        _dead_letters(seen.dead[:dead_rows]),
    )


def _share(rows: int, wanted: Sequence[int]) -> list[int]:
    """Divide the rows: a few for each part, the rest in turn to the parts that want more."""
    given = [min(want, LEAST_ROWS) or 1 for want in wanted]
    left = rows - sum(given)
    while left > 0:
        short = [place for place, want in enumerate(wanted) if given[place] < want]
        if not short:
            break
        for place in short[:left]:
            given[place] += 1
        left -= len(short)
    return given


def _heading(seen: Observation) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True)
    line.add_column(justify="right", no_wrap=True)
    left = Text.assemble(("tq monitor  ", "bold"))
    if seen.cluster is None:
        left.append("looking for the cluster ...", style="yellow")
    else:
        leader = leader_of(seen.cluster)
        up = sum(node.reachable for node in seen.cluster.nodes)
        total = len(seen.cluster.nodes)
        if leader is not None:
            left.append(visible(f"leader {leader.node_id}"), style="bold green")
            left.append(f" in term {leader.term}  ")
        else:
            left.append("no leader  ", style="bold red")
        left.append(f"{up} of {total} nodes up", style="" if up == total else "bold yellow")
        left.append(visible(f"  {seen.cluster.cluster_id[:8]}"), style="dim")
    line.add_row(left, Text(f"q quits  {datetime.now(UTC):%H:%M:%S}Z", style="dim"))
    return line


def _part(title: str, total: int = 0, shown: int = 0) -> RenderableType:
    text = Text(title, style="bold")
    if total > shown:
        text.append(f"  {shown} of {total:,}", style="dim")
    return Rule(text, align="left", style="dim")


def _table(*columns: str, right: Iterable[str] = (), elastic: str = "") -> Table:
    """A table that cuts only its elastic column if not everything fits."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.expand = bool(elastic)
    for column in columns:
        justify = "right" if column in right else "left"
        ratio = 1 if column == elastic else None
        table.add_column(
            column,
            justify=justify,  # type: ignore[arg-type]  # one of two literals
            ratio=ratio,
            no_wrap=True,
            overflow="ellipsis",
        )
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """Add a row; the text of a cell is never interpreted as markup, and stays on one line."""
    table.add_row(*(each if isinstance(each, Text) else Text(visible(each)) for each in cells))


def _nodes(nodes: Sequence[NodeStatus], *, wide: bool) -> RenderableType:
    numbers = ("LAG", "APPLIED", "FSYNC P99", "HOLD", "JOURNAL", "DISK FREE", "UP")
    more = ("HOLD", "JOURNAL", "DISK FREE", "UP") if wide else ()
    columns = ("NODE", "ADDRESS", "ROLE", "APPLIED", "LAG", "FSYNC P99", *more, "MESSAGE")
    table = _table(*columns, right=numbers, elastic="MESSAGE")
    for node in nodes:
        if not node.reachable:
            blanks = [""] * (len(columns) - 4)
            down = Text("DOWN", style="bold red")
            reason = Text(visible(node.unreachable_reason), style="red")
            _add(table, node.node_id, node.address, down, *blanks, reason)
            continue
        role = enum_name(NodeStatus.Role.DESCRIPTOR, node.role)
        disk = (
            latency(node.loop_hold_max.ToJsonString()),
            size(node.journal_bytes),
            size(node.disk_free_bytes),
            uptime(node.started_at.ToJsonString()),
        )
        _add(
            table,
            node.node_id,
            node.address,
            Text(role, style=STATE_STYLES.get(role, "")),
            f"{node.applied_index:,}",
            Text(f"{node.lag_entries:,}", style="yellow" if node.lag_entries else "dim"),
            latency(node.fsync_p99.ToJsonString()),
            *(disk if wide else ()),
            Text(visible(node.message), style="yellow"),
        )
    return table


def _rates(history: Sequence[Rates]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right", min_width=10)
    table.add_column(no_wrap=True)
    for name, style in RATES:
        values = [rates[name] for rates in history]
        now = rate(values[-1]) if values else "-"
        _add(table, name, Text(now, style="bold"), Text(sparkline(values), style=style))
    return table


def sparkline(values: Sequence[float]) -> str:
    """The last values as a row of blocks, each a share of the highest."""
    highest = max(values, default=0.0)
    if not highest:
        return SPARKS[0] * len(values)
    steps = len(SPARKS) - 1
    return "".join(SPARKS[round(steps * value / highest)] for value in values[-HISTORY:])


def _most_urgent(seen: Observation) -> list[QueueStats]:
    queues = seen.reading.queues if seen.reading is not None else ()
    return sorted(queues, key=lambda each: (-depth(each), each.queue))


def _failed(queues: Iterable[QueueStats]) -> int:
    return sum(each.failed for each in queues)


def _queues(queues: Sequence[QueueStats], seen: Observation, *, wide: bool) -> RenderableType:
    if not queues:
        return Text("none yet: the first task that names a queue creates it", style="dim")
    blocked = wide and any(each.blocked for each in queues)
    more = ("RETRYING", "SCHEDULED", *(["BLOCKED"] if blocked else [])) if wide else ()
    numbers = ("WAITING", "RUNNING", *more, "FAILED", "IN", "DONE")
    bar_columns = BAR_COLUMNS if wide else BAR_COLUMNS // 3
    if blocked:
        bar_columns -= len("BLOCKED  ")  # as wide together as without it
    last = "NEXT HAS WAITED" if wide else "NEXT"
    table = _table("QUEUE", *numbers, "DEPTH", last, right=numbers)
    deepest = max(map(depth, queues))
    for each in queues:
        rates = seen.rates.get(each.queue)
        note = Text("paused", style="yellow") if each.settings.paused else Text(_waited(each))
        _add(
            table,
            each.queue,
            f"{each.pending:,}",
            f"{each.running:,}",
            *((f"{each.retrying:,}", f"{each.scheduled:,}") if wide else ()),
            *([f"{each.blocked:,}"] if blocked else []),
            Text(f"{each.failed:,}", style="red" if each.failed else ""),
            rate(rates["submitted"]) if rates else "",
            rate(rates["completed"]) if rates else "",
            bar(each, deepest, bar_columns),
            note,
        )
    return table


def _waited(stats: QueueStats) -> str:
    if stats.oldest_pending_at is None:
        return ""
    since = datetime.now(UTC) - stats.oldest_pending_at
    return span(max(0.0, since.total_seconds()))


def _workers(seen: Observation, rows: int) -> RenderableType:
    if seen.workers is None or not seen.workers.workers:
        return Text("nobody works: tq-worker run --handlers MODULE", style="dim")
    numbers = ("LEASES", "COMPLETED", "FAILED")
    table = _table("WORKER", "QUEUES", "NOW", *numbers, right=numbers)
    busiest = sorted(seen.workers.workers, key=lambda each: (-each.leases, each.worker_id))
    for worker in busiest[:rows]:
        silent_s = worker.silence.ToMilliseconds() / 1000
        _add(
            table,
            worker.worker_id,
            ", ".join(worker.queues),
            doing_now(worker, silent_s) if seen.led else Text("?", style="dim"),
            f"{worker.leases:,}",
            f"{worker.completed:,}",
            f"{worker.failed:,}",
        )
    return table


def _dead_letters(tasks: Sequence[Task]) -> RenderableType:
    if not tasks:
        return Text("none", style="green")
    table = _table("TASK", "QUEUE", "TYPE", "REASON", "ERROR", elastic="ERROR")
    for task in tasks:
        _add(
            table,
            task.task_id,
            task.queue,
            task.type,
            str(task.failure_reason or ""),
            task.last_error.partition("\n")[0],
        )
    return table
