"""A workload is found by its folder, runs in a scenario, and its promise is judged."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from typer.testing import CliRunner

from chaos import workloads
from chaos.cli import app
from chaos.context import RunContext
from chaos.history.facts import Facts
from chaos.history.record import Ledger
from chaos.history.violation import Violation
from chaos.nemeses.nemesis import Transport
from chaos.run.result import Verdict
from chaos.run.run import Plan
from chaos.run_scenario import run_scenario
from chaos.scenario import Scenario
from chaos.scenarios import all_scenarios, all_workloads
from chaos.workload import Workload
from chaos.workloads.poison import ATTEMPTS, POISON, QUEUE, Poison
from tq.v1 import task_pb2, worker_service_pb2

ONE_MODULE = """
from chaos.scenario import Scenario
from chaos.workload import Workload

class Limits(Workload):
    name = "limits"
    promise = "at most two of a key run"

SCENARIOS = (Scenario(name="limits-kept", summary="keys", nemeses=(), workloads=(Limits,)),)
"""


@pytest.fixture
def one_module_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A workload's module in the folder, as a new feature adds it."""
    (tmp_path / "limits_of_this_test.py").write_text(ONE_MODULE)
    monkeypatch.setattr(workloads, "__path__", [*workloads.__path__, str(tmp_path)])
    yield
    sys.modules.pop("chaos.workloads.limits_of_this_test", None)


@pytest.mark.usefixtures("one_module_more")
def test_one_module_in_the_folder_is_a_workload_its_promise_and_its_scenario() -> None:
    listed = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200", "TERM": "xterm"})

    assert all_scenarios()["limits-kept"].workloads == (all_workloads()["limits"],)
    assert "limits-kept" in listed.output
    assert "at most two of a key run" in listed.output


def test_every_workload_runs_in_a_scenario() -> None:
    played = {make for scenario in all_scenarios().values() for make in scenario.workloads}

    assert {"poison", "races", "sizes"} <= set(all_workloads())
    assert played == set(all_workloads().values())


class Doubtful(Workload):
    """Says of every history that it breaks its promise."""

    name = "doubtful"
    judged: bool = False

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        del context, addresses, seed

    async def judge(self, context: RunContext) -> None:
        del context
        self.judged = True

    def violations(self, facts: Facts) -> Iterator[Violation]:
        found = len(list(facts.acknowledged()))
        yield Violation("doubt", f"judged is {self.judged}, with some tasks: {found > 0}")


@pytest.mark.cluster
async def test_a_run_judges_the_complete_history_by_the_promise_of_its_workload(
    tmp_path: Path,
) -> None:
    scenario = Scenario(name="doubted", summary="", nemeses=(), workloads=(Doubtful,))
    plan = Plan(scenario=scenario, seed=5, duration_s=0.5, transport=Transport.PROCESSES)

    result = await run_scenario(plan, tmp_path, lambda _: None)

    assert result.verdict is Verdict.BROKEN, result.reason
    assert result.violations == ["doubt: judged is True, with some tasks: True"]


@pytest.mark.parametrize(
    ("attempt", "task_type", "broken"),
    [(ATTEMPTS, POISON, False), (ATTEMPTS + 1, POISON, True), (ATTEMPTS + 1, "planned", False)],
)
def test_a_poisoned_task_that_is_given_out_after_its_last_attempt_breaks_the_promise(
    attempt: int, task_type: str, broken: bool
) -> None:
    ledger = Ledger(now_s=lambda: 0.0)
    spec = task_pb2.TaskSpec(task_id="t", queue=QUEUE, type=task_type)
    granted = worker_service_pb2.ClaimedTask(
        spec=spec, token=9, attempt=attempt, lease=Duration(seconds=1)
    )
    ledger.claimed(
        ledger.claim("mortal-1", "claim"), worker_service_pb2.ClaimResponse(tasks=[granted])
    )
    ledger.found(ledger.read("reader", "t"), task_pb2.Task(spec=spec))

    found = list(Poison().violations(Facts(ledger)))

    expected = f"task t: was given out for attempt {attempt} of {ATTEMPTS}"
    assert [one.message for one in found] == ([expected] if broken else [])
