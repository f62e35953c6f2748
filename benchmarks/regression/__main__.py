"""Compare this checkout's processor time a task with an earlier commit's.

    python -m benchmarks.regression [--base REF] [--limit 10] [--minutes 6]

Exit code 0: not slower by more than the limit, or not certain, with a warning; 1: slower; 2: it
could not be measured. `judge.py` has the rule.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from benchmarks import machine
from benchmarks.regression import judge, pairs, table
from benchmarks.regression.judge import Verdict
from benchmarks.regression.pairs import BASE, HEAD
from benchmarks.regression.sides import SideError
from benchmarks.regression.software import (
    SoftwareError,
    base_commit,
    base_software,
    head_software,
)
from chaos.interrupts import end_in_order

EXIT_SLOWER = 1
EXIT_NOT_MEASURED = 2
EXIT_INTERRUPTED = 130
"""As a shell reports a program that Ctrl-C ended."""
WIDTH = 150
"""The width of the table if the output is a file or a pipe."""
REPLAYED = (1.0, 1.1, 1.25)
"""With --same: how slow the head is in the runs that are replayed."""


def main() -> None:
    """Check, and exit as the module says."""
    arguments = _parser().parse_args()
    end_in_order()
    try:
        sys.exit(_check(arguments))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except (SoftwareError, SideError) as error:
        Console(stderr=True).print(
            f"not measured: {error}", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(EXIT_NOT_MEASURED)


def _check(arguments: argparse.Namespace) -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    progress = Console(stderr=True)
    run = pairs.Run(limit=1 + arguments.limit / 100)
    command = " ".join(["python -m benchmarks.regression", *sys.argv[1:]])
    described = machine.describe(arguments.data_dir, command)
    with ExitStack() as stack:
        head = head_software()
        if arguments.same:
            base = head
        else:
            base = stack.enter_context(base_software(base_commit(arguments.base), head))
        described["base"] = base.title
        described["head"] = head.title
        bystanders = machine.Bystanders()
        software = {BASE: base, HEAD: head}
        for pair in pairs.measure_until_sure(
            run,
            lambda number: pairs.measure_pair(number, software, arguments.data_dir),
            pairs=arguments.pairs,
            pairs_max=arguments.pairs_max,
            within_s=arguments.minutes * 60,
            clock=time.monotonic,
            to_the_end=arguments.same,
        ):
            ratios = ", ".join(
                f"{each.name} {pair.ratio(each.name):.3f}" for each in pairs.WORKLOADS
            )
            progress.print(
                f"pair {len(run.pairs)}, {pair.first} first: {ratios};"
                f" other programs {pair.others:.0%}",
                highlight=False,
            )
    described["pairs"] = f"{len(run.pairs)}; {run.ended}"
    described["other programs"] = f"took {bystanders.share():.0%} of the cores meanwhile"
    table.print_table(console, described, run)
    rates = _replay(console, run, arguments) if arguments.same else None
    if arguments.json is not None:
        table.write_json(arguments.json, described, run, rates)
    return conclude(console, run)


def _replay(
    console: Console, run: pairs.Run, arguments: argparse.Namespace
) -> dict[float, dict[Verdict, float]]:
    """Say how often the check would be right and wrong with pairs such as these."""
    ratios = {each.name: [pair.ratio(each.name) for pair in run.pairs] for each in pairs.WORKLOADS}
    rates = {
        times: judge.rates(
            ratios,
            times=times,
            limit=run.limit,
            pairs=arguments.pairs,
            pairs_max=arguments.pairs_max,
        )
        for times in REPLAYED
    }
    for times, shares in rates.items():
        ends = ", ".join(f"{verdict.value} {share:.1%}" for verdict, share in shares.items())
        console.print(
            f"runs replayed from these pairs, head {times:g} times as slow: {ends}",
            highlight=False,
        )
    return rates


def conclude(console: Console, run: pairs.Run) -> int:
    """Print the verdict; return the exit code."""
    percent = f"{(run.limit - 1) * 100:.3g} %"
    named = {
        verdict: ", ".join(
            f"{name} {found.ratio:.2f} times ({table.interval(found)})"
            for name, found in run.judgements.items()
            if found.verdict is verdict
        )
        for verdict in Verdict
    }
    verdict = run.verdict
    if verdict is Verdict.SLOWER:
        _say(console, "error", f"slower by more than {percent}: {named[verdict]}")
        return EXIT_SLOWER
    if verdict is Verdict.UNSURE:
        _say(
            console,
            "warning",
            f"unsure whether slower by more than {percent}: {named[verdict]}; {run.ended}",
        )
        return 0
    console.print(f"passed: not slower by more than {percent}", highlight=False)
    return 0


def _say(console: Console, level: str, text: str) -> None:
    """Print a warning or an error; on GitHub it is also shown beside the change."""
    console.print(f"{level}: {text}", markup=False, highlight=False, soft_wrap=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(f"::{level} title=processor time a task::{text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regression",
        description="Compare this checkout's processor time a task with an earlier commit's.",
        epilog="Exit code 0: not slower by more than the limit, or unsure, with a warning; 1:"
        " slower; 2: not measured.",
    )
    compared = parser.add_mutually_exclusive_group()
    compared.add_argument(
        "--base",
        metavar="REF",
        help="the commit to compare with (default: where HEAD left origin/main; on that branch,"
        " the commit before)",
    )
    compared.add_argument(
        "--same",
        action="store_true",
        help="compare this checkout with itself, to the end, and say how often the check would"
        " be wrong here",
    )
    parser.add_argument(
        "--limit",
        type=_positive,
        default=10.0,
        metavar="PERCENT",
        help="how much slower is too slow (default: 10)",
    )
    parser.add_argument(
        "--pairs",
        type=_count,
        default=judge.fewest(),
        metavar="N",
        help=f"pairs before the first verdict (default: {judge.fewest()}, the fewest that allow"
        " one)",
    )
    parser.add_argument(
        "--pairs-max",
        type=_count,
        default=24,
        metavar="N",
        help="pairs to measure while the verdict is unsure (default: 24)",
    )
    parser.add_argument(
        "--minutes",
        type=_positive,
        default=6.0,
        metavar="M",
        help="how long to measure at most, without the build of the base (default: 6)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every pair as JSON")
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where the brokers keep their data, best on a real disk (default: the system's own)",
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("a number above 0")
    return number


if __name__ == "__main__":
    main()
