"""Every system in every round, one at a time, in an order that rotates."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import Bystanders
from benchmarks.peers.catalog import System
from benchmarks.peers.session import Session
from benchmarks.peers.workloads import WORKLOADS, Sizes, Workload

FAULT_LENGTH = 200
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a workload gave in one round: values, or why there are none."""

    values: Mapping[str, float] = field(default_factory=dict)
    fault: str | None = None


@dataclass(slots=True, kw_only=True)
class Row:
    """A system and its outcomes, by workload, one for each round."""

    system: System
    skipped: str | None = None
    versions: str = ""
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)
    """The share of the cores that other programs took, in each round."""

    def add(self, outcomes: Mapping[str, Outcome]) -> None:
        """Add those of one round."""
        for workload, outcome in outcomes.items():
            self.outcomes.setdefault(workload, []).append(outcome)


def order(rows: Sequence[Row], number: int) -> list[Row]:
    """Rotate the systems, so that each round begins with another one."""
    turn = number % len(rows) if rows else 0
    return [*rows[turn:], *rows[:turn]]


def begin(systems: Sequence[System]) -> list[Row]:
    """Make the rows: a system that is not installed is skipped."""
    rows = [Row(system=system, skipped=system.missing()) for system in systems]
    for row in rows:
        if row.skipped is None:
            row.versions = row.system.versions()
    return rows


def run(
    rows: Sequence[Row],
    rounds: int,
    sizes: Sizes,
    data_dir: Path | None,
    progress: Progress,
) -> None:
    """Measure, and add to the rows; if this is interrupted, they keep what was complete."""
    present = [row for row in rows if row.skipped is None]
    for number in range(rounds):
        for row in order(present, number):
            progress(f"round {number + 1} of {rounds}: {row.system.name}")
            bystanders = Bystanders()
            with tempfile.TemporaryDirectory(prefix="tq-peers-", dir=data_dir) as parent:
                folder = Path(parent) / "run"
                folder.mkdir()
                row.add(asyncio.run(measure(row.system, sizes, folder, progress)))
            row.others.append(bystanders.share())


async def measure(
    system: System,
    sizes: Sizes,
    folder: Path,
    progress: Progress,
    workloads: Sequence[Workload] = WORKLOADS,
) -> dict[str, Outcome]:
    """Start a system, run the workloads that it has, and stop it."""
    wanted = [workload for workload in workloads if workload.name not in system.lacks]
    outcomes: dict[str, Outcome] = {}
    try:
        async with system.running(folder) as session:
            # The libraries of the systems before, once imported, are no garbage to look through.
            gc.collect()
            gc.freeze()
            for workload in wanted:
                outcome = await _cell(workload, session, sizes)
                outcomes[workload.name] = outcome
                progress(f"{system.name}: {workload.says}: {_said(outcome)}")
    except Exception as error:  # noqa: BLE001  # a system that fails leaves the others their turn
        fault = f"the system failed: {_short(error)}"
        progress(f"{system.name}: {fault}\n{error}")
        for workload in wanted:
            outcomes.setdefault(workload.name, Outcome(fault=fault))
    return outcomes


async def _cell(workload: Workload, session: Session, sizes: Sizes) -> Outcome:
    """Run one workload within its time."""
    bound = asyncio.timeout(sizes.cell_seconds)
    try:
        async with bound:
            return Outcome(values=await workload.measure(session, sizes))
    except Exception as error:  # noqa: BLE001  # as in measure
        if bound.expired():
            return Outcome(fault=f"ended after {sizes.cell_seconds:g} s")
        return Outcome(fault=_short(error))


def _short(error: BaseException) -> str:
    """Name an error in one line; of a group, its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {line}"[:FAULT_LENGTH]


def _said(outcome: Outcome) -> str:
    if outcome.fault is not None:
        return outcome.fault
    return ", ".join(f"{name} {value:,.2f}" for name, value in outcome.values.items())
