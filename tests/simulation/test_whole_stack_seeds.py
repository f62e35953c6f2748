"""Random histories of the whole stack: brokers with their LMDB state, clients and workers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.new_seeds import (
    WHOLE_STACK_SEEDS,
    WHOLE_STACK_SEEDS_A_TEST,
    no_promise_is_broken,
    parts,
)
from tests.simulation.play.stack import SCRIPT, whole_stack_history
from tests.simulation.play.story import Story
from tests.telling import RecordProperty


@pytest.mark.slow
@pytest.mark.parametrize("part", parts(WHOLE_STACK_SEEDS, WHOLE_STACK_SEEDS_A_TEST), ids=str)
def test_no_history_of_the_whole_stack_breaks_a_promise(
    part: range, record_property: RecordProperty
) -> None:
    done = no_promise_is_broken(part, record_property, whole_stack=True)

    for what in ("submits", "claims", "reports", "reads"):
        assert done.counts[what] > 20 * len(part), done.describe()


@pytest.mark.slow
def test_one_seed_of_the_whole_stack_is_one_history_whatever_the_order_of_hashes() -> None:
    """Else a seed that failed once could not be looked at again."""
    printed = {
        subprocess.run(
            [sys.executable, "-m", "tests.simulation", "show", "7", "--whole-stack", "--calls"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "4711")
    }

    assert len(printed) == 1


def test_a_step_of_log_time_forgets_no_call_that_is_repeated() -> None:
    """Two of three clocks go wrong by the same minutes between a submit and its repetition."""
    assert whole_stack_history(Story(167, whole_stack=True)).failure == ""


@pytest.mark.slow
def test_without_faults_every_call_is_answered() -> None:
    """What the faults of other stories break is not broken by the simulation itself."""
    story = Story(5, whole_stack=True)
    calm = {step.number for step in story.steps(SCRIPT) if step.kind in {"submit", "read"}}

    history = whole_stack_history(story.only(calm))

    assert history.failure == ""
    # One that began as the brokers did may have come before its broker listened.
    began_s = [float(call.split()[0]) for call in history.calls if " unknown " in call]
    in_the_end = 3  # each worker waits for tasks when the simulation ends
    assert len([at_s for at_s in began_s if at_s > 0]) <= in_the_end
