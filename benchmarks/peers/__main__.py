"""Measure tq beside other queues: `python -m benchmarks.peers [SYSTEM...]`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.peers import rounds, table
from benchmarks.peers.catalog import SYSTEMS, System
from benchmarks.peers.workloads import WORKLOADS, Sizes
from chaos.interrupts import end_in_order

EXIT_INTERRUPTED = 130
"""As a shell reports a program that Ctrl-C ended."""
WIDTH = 190
"""The width of the table if the output is a file or a pipe."""
HOW = """\
Starts each system on loopback, one at a time, in a folder that is removed afterwards, and measures
the same work on each. Install the servers (Debian: nats-server, redis-server, rabbitmq-server,
etcd-server, postgresql), and the Python libraries of benchmarks/peers/requirements.txt into an
environment of their own. A system that is not installed is skipped."""


def main() -> None:
    """Measure, print the table, and fail if a system that is installed did not run."""
    arguments = _parser().parse_args()
    systems = _chosen(arguments.systems)
    sizes = Sizes(
        seconds=arguments.seconds,
        done_seconds=arguments.done_seconds,
        drain_tasks=arguments.tasks,
        drain_seconds=arguments.drain_seconds,
        cell_seconds=arguments.cell_seconds,
    )
    # The libraries report each lost connection when a server ends.
    logging.basicConfig(level=logging.CRITICAL)
    end_in_order()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    progress = Console(stderr=True)
    command = " ".join(["python -m benchmarks.peers", *sys.argv[1:]])
    described = machine.describe(arguments.data_dir, command)
    described["rounds"] = (
        f"{arguments.rounds}; 256-byte tasks; {sizes.seconds:g} s for each rate of submits,"
        f" {sizes.done_seconds:g} s of tasks by the clock, {sizes.drain_tasks:,} tasks or"
        f" {sizes.drain_seconds:g} s of the worker"
    )
    bystanders = machine.Bystanders()
    rows = rounds.begin(systems)
    interrupted = False
    try:
        rounds.run(
            rows,
            arguments.rounds,
            sizes,
            arguments.data_dir,
            lambda text: progress.print(text, markup=False, highlight=False, soft_wrap=True),
        )
    except KeyboardInterrupt:
        interrupted = True
        described["rounds"] += "; interrupted: only what was complete is here"
    described["other programs"] = f"took {bystanders.share():.0%} of the cores meanwhile"
    table.print_table(console, described, rows)
    if arguments.json is not None:
        table.write_json(arguments.json, described, sizes, rows)
    if arguments.markdown is not None:
        table.write_markdown(arguments.markdown, described, rows)
    if interrupted:
        sys.exit(EXIT_INTERRUPTED)
    failed = [row.system.name for row in rows if _failed(row)]
    if failed:
        sys.exit(f"no figures in some cells, see the notes: {', '.join(failed)}")


def _failed(row: rounds.Row) -> bool:
    return any(outcome.fault is not None for each in row.outcomes.values() for outcome in each)


def _chosen(names: list[str]) -> list[System]:
    """Find systems by a part of their names."""
    if not names:
        return list(SYSTEMS)
    unknown = [name for name in names if not any(_is_part(name, each) for each in SYSTEMS)]
    if unknown:
        sys.exit(
            f"no system is named {', '.join(unknown)}; there are:"
            f" {'; '.join(each.name for each in SYSTEMS)}"
        )
    return [each for each in SYSTEMS if any(_is_part(name, each) for name in names)]


def _is_part(name: str, system: System) -> bool:
    return name.lower() in system.name.lower()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=HOW,
        epilog="Measured: " + "; ".join(each.says for each in WORKLOADS) + ".",
    )
    given = Sizes()
    parser.add_argument(
        "systems",
        nargs="*",
        metavar="SYSTEM",
        help="a part of a system's name, such as tq or redis (default: all)",
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--seconds",
        type=float,
        default=given.seconds,
        metavar="S",
        help=f"how long each workload of submits lasts (default: {given.seconds:g})",
    )
    parser.add_argument(
        "--done-seconds",
        type=float,
        default=given.done_seconds,
        metavar="S",
        help=f"how long tasks are begun by the clock (default: {given.done_seconds:g})",
    )
    parser.add_argument(
        "--tasks",
        type=_hundreds,
        default=given.drain_tasks,
        metavar="N",
        help=f"the tasks that the worker drains (default: {given.drain_tasks})",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=given.drain_seconds,
        metavar="S",
        help=f"measure the worker for at most this long (default: {given.drain_seconds:g})",
    )
    parser.add_argument(
        "--cell-seconds",
        type=float,
        default=given.cell_seconds,
        metavar="S",
        help=f"end a workload that takes longer (default: {given.cell_seconds:g})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the table as Markdown"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the systems keep their data, best on a real disk (default: the system's own)",
    )
    return parser


def _hundreds(text: str) -> int:
    """Read a number of tasks: clients submit them in calls of 100."""
    number = int(text)
    if number < 1_000 or number % 100:
        raise argparse.ArgumentTypeError("a multiple of 100, at least 1,000")
    return number


if __name__ == "__main__":
    main()
