"""Measure one thing, several, or everything: `python -m benchmarks [NAME...]`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from rich.console import Console

from benchmarks import (
    claims,
    handover,
    lone,
    machine,
    memory,
    outage,
    report,
    snapshot,
    submit,
    work,
)
from benchmarks.figures import Figure

Benchmark = Callable[[Path | None], Awaitable[list[Figure]]]

EVERYTHING = "all"
WIDTH = 140
"""The width of the table if the output is a file or a pipe."""
BENCHMARKS: Mapping[str, Benchmark] = {
    "submit": submit.throughput,
    "work": work.throughput,
    "alone": submit.alone,
    "lone": lone.to_done,
    "memory": memory.pending,
    "claims": claims.by_depth,
    "outage": outage.after_sigkill,
    "silence": outage.after_sigstop,
    "handover": handover.by_command,
    "snapshot": snapshot.rejoin,
}


def main() -> None:
    """Measure, print the table, and fail if a target was missed or a benchmark did not run."""
    arguments = _parser().parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    everything = EVERYTHING in arguments.names
    names = list(BENCHMARKS) if everything else arguments.names
    command = " ".join(["python -m benchmarks", *([] if everything else names)])
    described = machine.describe(arguments.data_dir, command)
    figures: list[Figure] = []
    bystanders = machine.Bystanders()
    for name in names:
        with Console(stderr=True).status(f"measuring {name}"):
            figures.extend(asyncio.run(_measure(BENCHMARKS[name], arguments.data_dir)))
    described["other programs"] = f"took {bystanders.share():.0%} of the cores meanwhile"
    report.print_table(console, described, figures)
    if arguments.json is not None:
        report.write_json(arguments.json, described, figures)
    if arguments.markdown is not None:
        report.write_markdown(arguments.markdown, described, figures)
    missed = [figure.name for figure in figures if figure.met is False]
    if missed:
        sys.exit(f"{len(missed)} of the targets were missed: {'; '.join(missed)}")


async def _measure(benchmark: Benchmark, data_dir: Path | None) -> list[Figure]:
    return await benchmark(data_dir)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Start three brokers on loopback and measure them.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        choices=[*BENCHMARKS, EVERYTHING],
        default=EVERYTHING,
        help=f"what to measure: {', '.join(BENCHMARKS)}, or {EVERYTHING} (default)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the table as the README has it"
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the brokers keep their data, best on a real disk (default: the system's own)",
    )
    return parser


if __name__ == "__main__":
    main()
