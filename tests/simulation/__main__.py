"""Run simulated clusters.

python -m tests.simulation run --seeds 10000 [--whole-stack] [--jobs 2] [--first SEED]
python -m tests.simulation show SEED [--whole-stack] [--only STEPS] [--calls]
python -m tests.simulation shorten SEED [--whole-stack]
python -m tests.simulation mutants [NAME ...] [--json]
python -m tests.simulation logs --seeds 200 [--first SEED] [--against FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.raft.rules import RULES
from tests.simulation.play import campaign, mutants
from tests.simulation.play.logs import log_digests
from tests.simulation.play.story import Story


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run many seeds; a failing one is told in short")
    run.add_argument("--seeds", type=int, default=1_000)
    run.add_argument("--first", type=int, default=None, help="the first seed; drawn by default")
    run.add_argument("--jobs", type=int, default=None, help="processes; one a core by default")
    run.add_argument("--failures", type=int, default=5, help="stop after so many failing seeds")
    run.add_argument("--whole-stack", action="store_true")
    show = commands.add_parser("show", help="run one seed and print all that happens")
    show.add_argument("seed", type=int)
    show.add_argument("--whole-stack", action="store_true")
    show.add_argument("--only", default=None, help="the numbers of the steps to take")
    show.add_argument("--calls", action="store_true", help="print every call, too")
    shorten = commands.add_parser("shorten", help="find the fewest steps with which a seed fails")
    shorten.add_argument("seed", type=int)
    shorten.add_argument("--whole-stack", action="store_true")
    hunt = commands.add_parser("mutants", help="plant bugs, and say which seeds catch them")
    hunt.add_argument("names", nargs="*", help="only these")
    hunt.add_argument("--json", action="store_true", help="a line of JSON each; seeds alone count")
    logs = commands.add_parser("logs", help="print a digest of what each seed's brokers log")
    logs.add_argument("--seeds", type=int, default=200)
    logs.add_argument("--first", type=int, default=1)
    logs.add_argument("--against", type=Path, help="what this printed before: 1 if they differ")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if chosen.command == "run":
        return _run(chosen)
    if chosen.command == "mutants":
        return _mutants(chosen.names, as_json=chosen.json)
    if chosen.command == "logs":
        return _logs(chosen.first, chosen.seeds, chosen.against)
    story = Story(chosen.seed, chosen.whole_stack)
    if chosen.command == "show":
        return _show(story, chosen.only, calls=chosen.calls)
    _say(campaign.tell(story))
    return 0


def _run(chosen: argparse.Namespace) -> int:
    first = campaign.drawn_seed() if chosen.first is None else chosen.first
    _say(f"seeds {first} to {first + chosen.seeds - 1}")
    told_s = 0.0

    def progress(so_far: campaign.Campaign) -> None:
        nonlocal told_s
        if so_far.spent_s - told_s >= 10:
            told_s = so_far.spent_s
            _say(so_far.describe())

    done = campaign.run(
        first,
        chosen.seeds,
        whole_stack=chosen.whole_stack,
        jobs=chosen.jobs,
        progress=progress,
        failures_max=chosen.failures,
    )
    _say(done.describe())
    for story, failure in done.failures:
        _say(f"seed {story.seed}: {failure}\n  {story.command}")
    if done.failures:
        _say(campaign.tell(done.failures[0][0]))
    return 1 if done.failures else 0


def _logs(first: int, seeds: int, against: Path | None) -> int:
    """Print one line for each seed, or only those that differ from an earlier output."""
    before = dict(line.split() for line in against.read_text().splitlines()) if against else {}
    equal = differ = 0
    for seed, digest in log_digests(first, seeds):
        if against is None:
            _say(f"{seed} {digest}")
        elif before[str(seed)] == digest:
            equal += 1
        else:
            differ += 1
            _say(f"seed {seed} logs something else: it was {before[str(seed)]}, it is {digest}")
    if against is not None:
        _say(f"{equal} seeds log the same, byte for byte; {differ} do not")
    return 1 if differ else 0


def _mutants(names: Sequence[str], *, as_json: bool) -> int:
    """Print each bug, the seed that caught it, and the number of seeds."""
    chosen = [mutants.named(name) for name in names] or [*mutants.PLANTED, *mutants.RULES_OFF]
    if not as_json:
        _say("| planted bug | caught by | after | what it showed |\n| --- | --- | --- | --- |")
    tell = _tell_in_json if as_json else _tell_in_a_row
    missed = [mutant for mutant in chosen if not tell(mutant, mutant.first_caught())]
    return 1 if missed else 0


def _tell_in_json(mutant: mutants.Mutant, caught: mutants.Caught | None) -> bool:
    told: dict[str, object] = {"name": mutant.name, "caught": caught is not None}
    if caught is None:
        told["seeds"] = mutants.SEEDS_MAX
    else:
        told |= {"seeds": caught.seeds, "seed": caught.seed, "broken": caught.broken}
    _say(json.dumps(told))
    return caught is not None


def _tell_in_a_row(mutant: mutants.Mutant, caught: mutants.Caught | None) -> bool:
    if caught is not None:
        _say(f"| {mutant.name} | {mutant.seeds} | {caught.seeds} | {caught.shown[:160]} |")
        return True
    rules = [rule for rule in RULES if mutant.name == f"{rule.name} off"]
    shown = [rule.scenario(with_rule=False) for rule in rules]
    for rule, one in zip(rules, shown, strict=True):
        _say(f"| {mutant.name} | directed scenario {rule.test} | 1 | {one or 'NOTHING'} |")
    if not rules:
        _say(f"| {mutant.name} | NOTHING | {mutants.SEEDS_MAX} | |")
    return bool(shown) and all(shown)


def _show(story: Story, only: str | None, *, calls: bool) -> int:
    if only is not None:
        story = story.only({int(number) for number in only.split(",") if number.isdigit()})
    happened = campaign.history(story)
    _say("\n".join([*happened.trace, *(happened.calls if calls else ())]))
    _say(", ".join(f"{value} {name}" for name, value in happened.counts.items()))
    _say(f"digest {happened.digest}")
    if happened.error is not None:
        _say("".join(traceback.format_exception(happened.error)))
    return 1 if happened.error is not None else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
