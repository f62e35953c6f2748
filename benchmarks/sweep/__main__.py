"""Every RPC with the largest legal request and with the largest that the wire takes.

`python -m benchmarks.sweep` starts three brokers on loopback, fills them with a million tasks, and
sends every RPC of every service requests of many shapes: alone and several at once, through the
leader and through a follower, beside a lone caller that submits a task every 50 ms. It prints the
answers and how long the loops were held, and exits with 1 if a bound is broken: a change of leader,
a broker that ended or takes over 512 MB, or a hold of more than 20 ms and 5 ms for each MiB beyond
the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from google.protobuf.descriptor import MethodDescriptor
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.cluster import brokers
from benchmarks.sweep import services, shapes, wire
from benchmarks.sweep.ground import MIB, Ground
from benchmarks.sweep.measure import Measured, Prober, Sweeper
from tq.v1 import task_pb2, task_service_pb2

TASKS = 1_000_000
TOGETHER = 8
QUIET_S = 5.0
REFERENCE_MS = 0.4
"""The time of the piece of work on an idle core of an ordinary server, for which the bounds are."""
RUNS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One shape of one RPC."""

    method: MethodDescriptor
    path: str
    name: str
    legal: bool
    together: int
    shape: shapes.Shape | None = None
    make: wire.Make | None = None
    size: int | None = None
    """The size of the request that ``make`` makes. None: the limit of the wire."""


def cases() -> Iterator[Case]:
    """Yield every case, the legal ones first."""
    for method in services.methods():
        path = services.path_of(method)
        for shape in shapes.SHAPES:
            if shape.path == path:
                yield Case(
                    method=method,
                    path=path,
                    name=shape.name,
                    legal=True,
                    together=shape.together,
                    shape=shape,
                )
        most = services.request_bytes_max(method)
        for name, make in wire.shapes(method.input_type):
            for size in (None,) if most is None else (None, most):
                yield Case(
                    method=method,
                    path=path,
                    name=name if size is None else f"{name}, as large as the method takes",
                    legal=False,
                    together=TOGETHER,
                    make=make,
                    size=size,
                )


def wanted(arguments: argparse.Namespace) -> list[Case]:
    """Return the cases that were asked for."""
    return [
        case
        for case in cases()
        if arguments.only in f"{case.path} {case.name}"
        and (arguments.kind in {"all", "legal" if case.legal else "wire"})
    ]


async def run(arguments: argparse.Namespace, console: Console) -> list[Measured]:
    """Fill a cluster and sweep it."""
    rows: list[Measured] = []
    chosen = wanted(arguments)
    async with brokers(arguments.data_dir) as cluster:
        ground = Ground(cluster, console.log)
        begun_s = time.monotonic()
        await ground.fill(arguments.tasks)
        console.log(f"filled in {time.monotonic() - begun_s:.0f} s")
        async with Prober(cluster.addresses) as prober:
            sweeper = Sweeper(cluster, ground, prober)
            await sweeper.watch()
            rows.append(await _quiet(sweeper, ground, prober))
            console.log(_line(rows[0]))
            for case in chosen:
                for via in ("leader", "follower"):
                    for together in dict.fromkeys((1, case.together)):
                        row = await _sweep(sweeper, ground, case, via, together)
                        rows.append(row)
                        console.log(_line(row))
    return rows


async def _quiet(sweeper: Sweeper, ground: Ground, prober: Prober) -> Measured:
    """Measure the brokers and the machine without requests."""
    await prober.after(time.monotonic(), 60)
    begun_s = time.monotonic()
    await asyncio.sleep(QUIET_S)
    row = Measured(rpc="(none)", shape="", legal=True, via="", together=0, sent_bytes=0)
    await sweeper.look(row, ground.leader_id, time.monotonic() - begun_s)
    row.probe_s, row.probes_failed = prober.since(begun_s)
    return row


async def _sweep(sweeper: Sweeper, ground: Ground, case: Case, via: str, together: int) -> Measured:
    if case.shape is not None:
        made = [await case.shape.make(ground) for _ in range(together)]
        bodies = [message.SerializeToString() for message in made]
    else:
        assert case.make is not None
        bodies = [case.make(case.size or ground.limits.message_bytes_max - 1_024)] * together
    row = Measured(
        rpc=case.path.rsplit(".", 1)[-1],
        shape=case.name,
        legal=case.legal,
        via=via,
        together=together,
        sent_bytes=max(map(len, bodies)),
        moves_leader=case.shape is not None and case.shape.moves_leader,
    )
    return await sweeper.measure(case.method, case.path, bodies, row)


def calibrate() -> float:
    """Return how much slower this machine is now than the one that the bounds are for.

    It measures the processor time of a fixed piece of work: other programs count by their effect on
    the caches, not by their own time.
    """
    spec = task_pb2.TaskSpec(queue="q", type="t", payload=bytes(200), labels={"a": "b"})
    raw = task_service_pb2.SubmitRequest(tasks=[spec] * 1_000).SerializeToString()
    taken: list[float] = []
    for _ in range(RUNS):
        begun_s = time.thread_time()
        parsed = task_service_pb2.SubmitRequest.FromString(raw)
        sum(len(task.queue) for task in parsed.tasks)
        parsed.SerializeToString(deterministic=True)
        taken.append((time.thread_time() - begun_s) * 1e3)
    return max(1.0, statistics.median(taken) / REFERENCE_MS)


def table(rows: Sequence[Measured], slack: float, *, wall: bool) -> Table:
    """Return the table that is printed."""
    found = Table(title="the longest holds of the event loops, in ms", title_justify="left")
    for name in ("RPC", "shape", "via", "answer"):
        found.add_column(name, overflow="fold")
    for name in ("at once", "MiB", "leader: wall", "CPU", "followers: wall", "CPU", "bound"):
        found.add_column(name, justify="right")
    for name in ("probe, ms", "terms", "RssAnon, MB"):
        found.add_column(name, justify="right")
    found.add_column("broken", overflow="fold")
    for row in rows:
        found.add_row(
            row.rpc,
            row.shape if row.legal else f"[dim]wire:[/] {row.shape}",
            row.via,
            ", ".join(f"{count} {name}" for name, count in row.answers.most_common()),
            str(row.together),
            f"{row.sent_bytes / MIB:.2f}",
            *(f"{seconds * 1e3:.0f}" for seconds in (row.leader_wall_s, row.leader_cpu_s)),
            *(f"{seconds * 1e3:.0f}" for seconds in (row.follower_wall_s, row.follower_cpu_s)),
            f"{row.bound_s * slack * 1e3:.0f}",
            f"{row.probe_s * 1e3:.0f}"
            + (f" ({row.probes_failed} failed)" if row.probes_failed else ""),
            str(row.terms),
            f"{row.anonymous_before / 1e6:.0f} → {row.anonymous_after / 1e6:.0f}",
            "; ".join(row.faults(slack, wall=wall)),
        )
    return found


def _line(row: Measured) -> str:
    answers = ", ".join(f"{count} {name}" for name, count in row.answers.most_common())
    return (
        f"{row.rpc}, {row.shape}, {row.via} x{row.together}: {answers} in {row.took_s:.2f} s; held"
        f" {row.leader_wall_s * 1e3:.0f}/{row.leader_cpu_s * 1e3:.0f} ms (wall/CPU), followers"
        f" {row.follower_wall_s * 1e3:.0f}/{row.follower_cpu_s * 1e3:.0f}; probe"
        f" {row.probe_s * 1e3:.0f} ms; terms +{row.terms} {'; '.join(row.ended)}"
    )


def main() -> None:
    """Sweep, print the table, and fail if a bound is broken."""
    arguments = _parser().parse_args()
    if arguments.list:
        for case in wanted(arguments):
            print(f"{case.path}  {'legal' if case.legal else 'wire'}: {case.name}")
        return
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 200)
    bystanders = machine.Bystanders()
    before = calibrate()
    rows = asyncio.run(run(arguments, console))
    slowness = max(before, calibrate())
    slack = arguments.slack * slowness
    wall = arguments.judge == "wall"
    out = Console(width=None if sys.stdout.isatty() else 240)
    out.print(table(rows, slack, wall=wall))
    out.print(
        f"{arguments.tasks:,} tasks. Bounds are 20 ms, and 5 ms for each MiB beyond the first, of"
        f" {'wall' if wall else 'processor'} time, times {slack:.2f}: this machine is"
        f" {slowness:.2f} times slower than the one they are for, --slack is {arguments.slack:g}."
        f" Other programs took {bystanders.share():.0%} of the cores meanwhile.",
        highlight=False,
    )
    if arguments.json is not None:
        described = [
            asdict(replace(row, answers=Counter()))
            | {"answers": dict(row.answers), "bound_s": row.bound_s}
            for row in rows
        ]
        arguments.json.write_text(json.dumps({"slack": slack, "rows": described}, indent=1) + "\n")
    broken = [row for row in rows if row.faults(slack, wall=wall)]
    if broken:
        sys.exit(f"{len(broken)} of {len(rows)} rows break a bound")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tasks", type=int, default=TASKS, help=f"to fill in (default: {TASKS:,})")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only cases whose path and name have this in it"
    )
    parser.add_argument(
        "--kind", choices=["all", "legal", "wire"], default="all", help="which requests"
    )
    parser.add_argument(
        "--slack", type=float, default=1.0, help="a factor on the bounds, beside the machine's own"
    )
    parser.add_argument(
        "--judge",
        choices=["cpu", "wall"],
        default="cpu",
        help="what the bounds are held against: the processor time of the loop's thread, or, on a"
        " machine that has nothing else to do, the clock",
    )
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where the brokers keep data")
    return parser


if __name__ == "__main__":
    main()
