"""Sets of scenarios: ``ci`` has every fault once, ``nightly`` runs for as long as asked.

``abuse`` runs as ``nightly`` does, with the scenarios of that family alone.
"""

from __future__ import annotations

import enum
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from chaos.cluster import netlab
from chaos.interrupts import run_to_its_end
from chaos.nemeses.nemesis import Transport
from chaos.run.mutants import SIMULATION, TRIES, Mutant
from chaos.run.result import Result, Verdict, read_results
from chaos.run.run import Plan
from chaos.scenario import Family, Scenario
from chaos.scenarios import all_scenarios

NIGHTLY_S = 3_600.0
NIGHTLY_STRETCH = 3.0
"""How much longer each scenario lasts than in ``ci``."""


class Profile(enum.StrEnum):
    """The values of ``--profile``."""

    CI = "ci"
    NIGHTLY = "nightly"
    ABUSE = "abuse"


def plans(profile: Profile, seed: int, scenarios: Sequence[Scenario]) -> Iterator[Plan]:
    """The plans to run, in order; all but ``ci`` never end, and give each turn another seed."""
    draw = random.Random(seed)
    for turn in itertools.count():
        for scenario in scenarios:
            if profile is Profile.CI and not scenario.in_ci:
                continue
            if profile is Profile.ABUSE and scenario.family is not Family.ABUSE:
                continue
            stretch = 1.0 if profile is Profile.CI else NIGHTLY_STRETCH
            yield Plan(
                scenario=scenario,
                seed=draw.randrange(1, 1_000_000),
                duration_s=stretch * scenario.duration_s,
                transport=scenario.transport,
            )
        if profile is Profile.CI:
            return
        assert turn < sys.maxsize


def run(
    profile: Profile, seed: int, duration_s: float | None, out: Path, console: Console
) -> list[Result]:
    """Run each plan in a process of its own; return the result of each."""
    until_s = time.monotonic() + (duration_s or NIGHTLY_S)
    first = len(read_results(out))
    for plan in plans(profile, seed, list(all_scenarios().values())):
        if profile is not Profile.CI and time.monotonic() >= until_s:
            break
        console.rule(f"{plan.scenario.name}: {' '.join(plan.scenario.faults)}")
        run_apart(plan, out)
    return read_results(out)[first:]


def run_apart(plan: Plan, out: Path, enter: Sequence[str] = ()) -> int:
    """Run a plan in a process of its own, in a lab's hub for example; return its exit code.

    One run leaves nothing behind for the next, and a run that dies ends no other run.
    """
    if plan.transport is Transport.NETLAB and not enter and netlab.missing() is None:
        with netlab.lab(plan.scenario.nodes) as hub:
            return run_apart(plan, out, hub)
    return apart([*plan.arguments, "--out", str(out.resolve())], enter)


def apart(arguments: Sequence[str], enter: Sequence[str] = ()) -> int:
    """Run the suite's own command line in another process; return its exit code."""
    return run_to_its_end([*enter, sys.executable, "-m", "chaos", *arguments], netlab.ROOT)


@dataclass(frozen=True, slots=True)
class Hunt:
    """Whether a planted bug was caught, and where."""

    mutant: Mutant
    caught: bool
    where: str
    seeds: int
    took_s: float
    promises: tuple[str, ...] = ()
    """The promises that were found broken."""


def hunt(mutant: Mutant, seed: int, out: Path, console: Console) -> Hunt:
    """Run a bug's scenario with one seed after the other until it is caught."""
    if not mutant.scenario:
        return _simulated(mutant, console)
    draw = random.Random(f"{seed} {mutant.bug}")
    scenario = all_scenarios()[mutant.scenario]
    found: list[Result] = []
    for _ in range(TRIES):
        plan = Plan(
            scenario=scenario,
            seed=draw.randrange(1, 1_000_000),
            duration_s=scenario.duration_s,
            transport=scenario.transport,
            mutant=mutant,
        )
        console.rule(f"{mutant.bug}: {scenario.name}")
        run_apart(plan, out)
        found.append(read_results(out)[-1])
        if found[-1].verdict is not Verdict.KEPT:
            break
    last = found[-1]
    caught = last.verdict is Verdict.BROKEN
    remark = "" if caught else f": {last.verdict} {last.reason}".rstrip()
    return Hunt(
        mutant,
        caught,
        scenario.name + remark,
        len(found),
        sum(result.took_s for result in found),
        tuple(sorted({text.split(":", 1)[0] for text in last.violations})),
    )


def _simulated(mutant: Mutant, console: Console) -> Hunt:
    """Run the simulation's first seeds with the bug in every node, until one shows it."""
    console.rule(f"{mutant.bug}: simulation")
    started_s = time.monotonic()
    command = [sys.executable, *SIMULATION, mutant.bug]
    done = subprocess.run(command, cwd=netlab.ROOT, stdout=subprocess.PIPE, check=False)  # noqa: S603  # our own
    took_s = time.monotonic() - started_s
    told = json.loads(done.stdout)
    if not told["caught"]:
        return Hunt(mutant, False, "simulation: by no seed", told["seeds"], took_s)
    where = f"simulation, seed {told['seed']}"
    return Hunt(mutant, True, where, told["seeds"], took_s, (told["broken"],))


def exit_code(results: Sequence[Result], *, strict: bool) -> int:
    """0 if every promise was kept; if ``strict``, a run that could not start is a failure."""
    fine = {Verdict.KEPT} if strict else {Verdict.KEPT, Verdict.NOT_RUN}
    return 0 if results and all(result.verdict in fine for result in results) else 1
