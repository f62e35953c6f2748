"""The command line: ``python -m chaos list | run | report | mutants | outages``."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chaos.cluster import netlab
from chaos.nemeses.nemesis import Transport
from chaos.report.figures import percentile
from chaos.run import distribution, mutants, profiles
from chaos.run.distribution import Silence
from chaos.run.profiles import Profile
from chaos.run.result import Result, Verdict, read_results
from chaos.run.run import Plan, no_cluster, obstacle
from chaos.run_scenario import run_scenario
from chaos.scenario import Scenario
from chaos.scenarios import all_scenarios, all_workloads

OUT_DEFAULT = Path("chaos-reports")
STYLES = {
    Verdict.KEPT: "green",
    Verdict.BROKEN: "bold red",
    Verdict.NOT_RUN: "yellow",
    Verdict.ERROR: "bold magenta",
}
EXITS = {Verdict.KEPT: 0, Verdict.BROKEN: 1, Verdict.ERROR: 2, Verdict.NOT_RUN: 3}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Break a cluster on purpose, and judge from complete histories what it did.",
)
console = Console(highlight=False)


@app.command("list")
def list_() -> None:
    """List scenarios, faults, what this machine lacks for them; workloads and their promises."""
    table = Table("scenario", "faults", "nodes", "ci", "what happens")
    for scenario in all_scenarios().values():
        lacks = _lacks(scenario)
        notes = "".join(f"\n[yellow]not here: {escape(why)}[/]" for why in lacks)
        table.add_row(
            scenario.name,
            " ".join(scenario.faults),
            f"{scenario.nodes} {scenario.transport}",
            "yes" if scenario.in_ci else "",
            escape(scenario.summary) + notes,
        )
    console.print(table)
    table = Table("workload", "runs in", "its promise, besides I1 to I8")
    for name, workload in all_workloads().items():
        table.add_row(
            name,
            " ".join(one.name for one in all_scenarios().values() if workload in one.workloads),
            escape(workload.promise),
        )
    console.print(table)


@app.command()
def run(
    scenario: Annotated[str, typer.Option(help="Which one: see `list`.")] = "",
    profile: Annotated[Profile | None, typer.Option(help="Instead: a whole set of them.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats a run's choices. Else drawn.")] = None,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of faults; of a profile: of everything.")
    ] = None,
    transport: Annotated[
        Transport | None, typer.Option(help="What the nodes are. Else the scenario's choice.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="HOST:PORT,... of a cluster of yours: load and verdict alone.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Where reports go.")] = OUT_DEFAULT,
    mutant: Annotated[
        str, typer.Option(help="A bug to plant in every node: see `mutants`.", hidden=True)
    ] = "",
    strict: Annotated[bool, typer.Option(help="Fail where a scenario cannot run here.")] = False,
) -> None:
    """Run one scenario, or a profile of many; write a report of each."""
    out.mkdir(parents=True, exist_ok=True)
    chosen_seed = random.SystemRandom().randrange(1, 1_000_000) if seed is None else seed
    if profile is not None:
        results = profiles.run(profile, chosen_seed, duration, out, console)
        console.print(_table(results))
        raise typer.Exit(profiles.exit_code(results, strict=strict))
    plan = _plan(scenario, chosen_seed, duration, transport, _split(against), mutant)
    if plan.transport is Transport.NETLAB and not netlab.inside() and netlab.missing() is None:
        with netlab.lab(plan.scenario.nodes) as enter:
            raise typer.Exit(profiles.run_apart(plan, out, enter))
    result = asyncio.run(run_scenario(plan, out, lambda line: console.print(escape(line))))
    _tell(result, out)
    raise typer.Exit(EXITS[result.verdict])


@app.command("mutants")
def mutants_(
    out: Annotated[Path, typer.Option(help="Where reports go.")] = OUT_DEFAULT,
    seed: Annotated[int, typer.Option(help="From which each bug's seeds are drawn.")] = 1,
    bug: Annotated[str, typer.Option(help="Only this one.")] = "",
) -> None:
    """Plant known bugs in the brokers, one after the other, and see whether each is caught."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = [mutants.by_name(bug)] if bug else list(mutants.MUTANTS)
    table = Table("planted bug", "what it does", "caught in", "seeds", "after", "by")
    hunts = [profiles.hunt(mutant, seed, out, console) for mutant in chosen]
    for hunt in hunts:
        style = "green" if hunt.caught else "bold red"
        table.add_row(
            hunt.mutant.bug,
            hunt.mutant.fault,
            f"[{style}]{escape(hunt.where)}[/]",
            str(hunt.seeds),
            f"{hunt.took_s:.0f} s",
            ", ".join(hunt.promises),
        )
    console.print(table)
    raise typer.Exit(0 if all(hunt.caught for hunt in hunts) else 1)


@app.command()
def outages(
    kills: Annotated[int, typer.Option(min=1, help="How many leaders.")] = 100,
    fault: Annotated[Silence, typer.Option(help="What happens to them.")] = Silence.SIGKILL,
) -> None:
    """Measure how long writes are out when the leader dies or falls silent."""
    if fault is Silence.PARTITION and not netlab.inside():
        missing = netlab.missing()
        if missing is not None:
            console.print(f"[yellow]not run: {escape(missing)}[/]")
            raise typer.Exit(EXITS[Verdict.NOT_RUN])
        with netlab.lab(distribution.NODES) as enter:
            again = ["outages", "--kills", str(kills), "--fault", fault.value]
            raise typer.Exit(profiles.apart(again, enter))
    with tempfile.TemporaryDirectory(prefix="tq-outages-") as folder:
        found = asyncio.run(
            distribution.measure(
                fault,
                kills,
                Path(folder),
                lambda one: console.print(f"{one.length_s * 1e3:.0f}", end=" "),
            )
        )
    lengths = [one.length_s for one in found]
    p50, p99 = (percentile(lengths, percent) or 0.0 for percent in (50, 99))
    console.print(
        f"\n{fault}, {kills} leaders, {distribution.WRITERS} writers: median {p50 * 1e3:.0f} ms,"
        f" p99 {p99 * 1e3:.0f} ms, worst {max(lengths) * 1e3:.0f} ms"
    )


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Where the reports are.")] = OUT_DEFAULT,
) -> None:
    """Show how the runs ended whose reports are in a folder."""
    results = read_results(out)
    if not results:
        console.print(f"there is no run in {out}")
        raise typer.Exit(2)
    console.print(_table(results))


def _plan(
    name: str,
    seed: int,
    duration: float | None,
    transport: Transport | None,
    against: Sequence[str],
    bug: str,
) -> Plan:
    known = all_scenarios()
    if against:
        scenario = known.get(name) or known["steady"]
        scenario = replace(
            scenario, nemeses=(), workloads=(), transport=Transport.OUTSIDE, more_faults=()
        )
        transport = Transport.OUTSIDE
    elif name in known:
        scenario = known[name]
    else:
        choices = ", ".join(sorted(known))
        problem = f"there is no scenario {name!r}" if name else "name a scenario or a profile"
        raise typer.BadParameter(f"{problem}; there are: {choices}", param_hint="--scenario")
    return Plan(
        scenario=scenario,
        seed=seed,
        duration_s=scenario.duration_s if duration is None else duration,
        transport=transport or scenario.transport,
        against=against,
        mutant=mutants.by_name(bug) if bug else None,
    )


def _split(addresses: str) -> list[str]:
    return [address for address in addresses.split(",") if address]


def _lacks(scenario: Scenario) -> list[str]:
    plan = Plan(scenario=scenario, seed=0, duration_s=0, transport=scenario.transport)
    without_cluster = no_cluster(plan)
    if without_cluster:
        return [without_cluster]
    reasons = (obstacle(plan, make()) for make in scenario.nemeses)
    return list(dict.fromkeys(why for why in reasons if why))


def _tell(result: Result, out: Path) -> None:
    style = STYLES[result.verdict]
    console.print(f"[{style}]{result.verdict}[/]  {escape(_line(result))}")
    for violation in result.violations:
        console.print(escape(violation), style="red")
    for name, why in result.not_injected.items():
        console.print(f"[yellow]not run: {escape(name)}: {escape(why)}[/]")
    if result.reason:
        console.print(escape(result.reason))
    if result.report:
        console.print(f"report: {escape(str(out / result.report))}")
    console.print(f"again: {escape(result.command)}", soft_wrap=True)


def _line(result: Result) -> str:
    return (
        f"{result.scenario} on {result.transport}, seed {result.seed}: {result.calls} calls,"
        f" {result.unanswered} never answered, {result.tasks} tasks; {result.took_s:.0f} s"
    )


def _table(results: Sequence[Result]) -> Table:
    table = Table(
        "scenario", "faults", "seed", "verdict", "s", "calls", "outage p50/max", "remarks"
    )
    for result in results:
        outage = ""
        if result.outage_median_s is not None and result.outage_max_s is not None:
            outage = f"{result.outage_median_s * 1e3:.0f}/{result.outage_max_s * 1e3:.0f} ms"
        lacks = [f"not run: {name}: {why}" for name, why in result.not_injected.items()]
        remarks = [result.reason, *lacks, *(text.splitlines()[0] for text in result.violations)]
        table.add_row(
            result.scenario,
            " ".join(result.faults),
            str(result.seed),
            f"[{STYLES[result.verdict]}]{result.verdict}[/]",
            f"{result.took_s:.0f}",
            str(result.calls),
            outage,
            escape("\n".join(remark for remark in remarks if remark)),
        )
    return table
