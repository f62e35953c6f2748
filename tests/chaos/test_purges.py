"""The promise of the workload of purges, on facts made by hand."""

from __future__ import annotations

import pytest

from chaos.history.facts import Facts, LeaseFacts, TaskFacts
from chaos.history.record import Ledger
from chaos.workloads.purges import Purges, Round

MARK = 100
"""The token under which a task ran that was submitted after the purge's answer."""


def violations(tokens: list[int], mark: int | None = MARK) -> list[str]:
    """What a purge is accused of that covered a task with these tokens."""
    facts = Facts(Ledger(lambda: 0.0))
    facts.tasks["covered"] = TaskFacts(
        "covered", leases={token: LeaseFacts(token) for token in tokens}
    )
    if mark is not None:
        facts.tasks["mark"] = TaskFacts("mark", leases={mark: LeaseFacts(mark)})
    purges = Purges()
    purges._rounds.append(Round(["covered"], "mark"))
    return [each.message for each in purges.violations(facts)]


@pytest.mark.parametrize("tokens", [[], [7], [7, 101], [99]])
def test_a_covered_task_may_have_run_before_and_be_tried_again(tokens: list[int]) -> None:
    assert violations(tokens) == []


def test_a_covered_task_that_first_started_after_the_answer_is_an_accusation() -> None:
    [message] = violations([101, 150])

    assert "started under token 101" in message
    assert "before token 100" in message


def test_without_a_task_that_ran_after_the_purge_nothing_is_known() -> None:
    assert violations([101], mark=None) == []
