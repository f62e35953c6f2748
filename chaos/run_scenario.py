"""Run a plan, and write its report and its result line."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from chaos.history.calls import SubmitCall
from chaos.history.record import Ledger
from chaos.history.violation import Violation
from chaos.report import page
from chaos.run.result import Result, Verdict
from chaos.run.run import Plan, Played, no_cluster, obstacle, play
from chaos.run.watch import elections

ECHO_S = 5.0
"""How long after a fault an election still counts as caused by the fault."""
HISTORY_LINES_MAX = 40
"""How many lines of a task's history a violation shows."""


async def run_scenario(plan: Plan, out: Path, tell: Callable[[str], None]) -> Result:
    """Run the plan if this machine can; the result says so. ``tell`` is called with each fault."""
    result = Result(
        scenario=plan.scenario.name,
        transport=plan.transport,
        seed=plan.seed,
        faults=list(plan.scenario.faults),
        mutant=plan.mutant.bug if plan.mutant else "",
        verdict=Verdict.NOT_RUN,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=plan.command,
    )
    result.reason = _not_here(plan) or ""
    if not result.reason:
        folder = Path(tempfile.mkdtemp(prefix="tq-chaos-"))
        try:
            played = await play(plan, folder, tell)
            _sum_up(result, played)
            result.report = f"{plan.run_name}.html"
            page.write(out / result.report, played, result)
            if not result.well:
                _keep_evidence(folder, played.ledger, out / f"{plan.run_name}-evidence")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    result.append_to(out)
    return result


def _not_here(plan: Plan) -> str | None:
    """Say why nothing of a scenario can run on this machine."""
    without_cluster = no_cluster(plan)
    if without_cluster:
        return without_cluster
    reasons = [obstacle(plan, make()) for make in plan.scenario.nemeses]
    if reasons and all(reasons):
        return "; ".join(dict.fromkeys(reason for reason in reasons if reason))
    return None


def _sum_up(result: Result, played: Played) -> None:
    lengths = [outage.length_s for outage in played.outages]
    result.verdict = Verdict.BROKEN if played.violations else Verdict.KEPT
    if played.error:
        result.verdict, result.reason = Verdict.ERROR, played.error
    result.took_s = round(played.took_s, 3)
    result.violations = [tell_violation(played.ledger, one) for one in played.violations]
    result.injected = played.injected
    result.not_injected = played.not_injected
    result.needless_elections = _needless(played)
    result.calls = len(played.ledger.calls)
    result.unanswered = played.ledger.unknown()
    result.tasks = sum(len(ids) for ids in _created(played.ledger).values())
    result.outage_median_s = round(statistics.median(lengths), 4) if lengths else None
    result.outage_max_s = round(max(lengths), 4) if lengths else None


def _needless(played: Played) -> int:
    """Count the elections that no fault explains, during it or shortly after its end."""
    faults = [
        (one.began_s, (one.ended_s or float("inf")) + ECHO_S)
        for one in played.happenings
        if one.name != "finish"
    ]
    return sum(
        not any(began <= at_s <= ended for began, ended in faults)
        for at_s in elections(played.sights)
    )


def tell_violation(ledger: Ledger, violation: Violation) -> str:
    """Describe a violation, with the calls that led to it."""
    lines = [f"{violation.invariant}: {violation.message}"]
    if violation.task_id is not None:
        history = list(ledger.history(violation.task_id))
        lines += [f"    {line}" for line in history[:HISTORY_LINES_MAX]]
        if len(history) > HISTORY_LINES_MAX:
            lines.append(f"    ... and {len(history) - HISTORY_LINES_MAX} calls more")
    return "\n".join(lines)


def _created(ledger: Ledger) -> dict[str, list[str]]:
    """The tasks that each acknowledged request created."""
    return {
        call.request_id: [task_id for task_id in call.task_ids if task_id]
        for call in ledger.calls
        if isinstance(call, SubmitCall)
    }


def _keep_evidence(folder: Path, ledger: Ledger, kept: Path) -> None:
    """Save the nodes' logs, whose folder is removed, and every call."""
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "calls.txt").write_text("".join(f"{call}\n" for call in ledger.calls))
    for path in folder.rglob("*.log"):
        if path.parent.name != "journal" and path.is_file():
            shutil.copy(path, kept / path.name)
