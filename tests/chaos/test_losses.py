"""A cluster that was lost for good: what may be gone is excused, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.history.calls import Ending
from chaos.history.record import ledger_label
from chaos.history.verdict import check, report
from tests.kill.story import (
    ALREADY_RECORDED,
    COMPLETED,
    LEASE_LOST,
    PENDING,
    RECORDED,
    RUNNING,
    Heartbeat,
    Report,
    Story,
)
from tq.v1 import task_pb2

DONE = task_pb2.Attempt.END_COMPLETED
EXPIRED = task_pb2.Attempt.END_LEASE_EXPIRED
NOT_FOUND = Report.STATUS_NOT_FOUND
HELD = task_pb2.Attempt.END_RUNNING
RELEASED = task_pb2.Attempt.END_RELEASED
UNCERTAIN = task_pb2.Attempt.END_UNCERTAIN
CANCELLED = task_pb2.TASK_STATE_CANCELLED
FAILED = task_pb2.TASK_STATE_FAILED

CERTAIN_S = 10
GONE = (20.0, 30.0)
"""When the cluster was lost, and the next one was there."""


def begun(*, claimed: bool = True) -> Story:
    """Tell of a task that is certain, and so is its first lease, of 5 s."""
    story = Story()
    story.submit((0, 1), "t")
    if claimed:
        story.claim((5, 6), "w1", 7, lease_s=5)
    return story


def lost(story: Story, *, quarantined: bool = True) -> Story:
    story.lose(CERTAIN_S, GONE, quarantined=quarantined)
    return story


def redriven_and_done(story: Story, token: int = 100) -> Story:
    story.read((31, 32), FAILED, {7: UNCERTAIN})
    story.redrive((33, 34), 1)
    story.claim((35, 36), "w2", token)
    story.report((37, 38), "w2", token)
    story.read((39, 40), COMPLETED, {7: UNCERTAIN, token: DONE}, redrives=1)
    story.listed(("t", ledger_label("r", 0)))
    return story


# ---------------------------------------------------------------- lost by decision, and right


def a_lease_that_was_running() -> Story:
    story = lost(begun())
    story.report((30.5, 30.9), "w1", 7, LEASE_LOST, state=FAILED)
    return redriven_and_done(story)


def a_call_that_nobody_answered_before_the_next_cluster() -> Story:
    story = lost(begun())
    story.read((25, 30.5), FAILED, {7: UNCERTAIN})
    return redriven_and_done(story)


def a_completion_that_is_gone() -> Story:
    story = begun()
    story.report((14, 15), "w1", 7)
    story.read((16, 17), COMPLETED, {7: DONE})
    return redriven_and_done(lost(story))


def a_completion_that_is_kept() -> Story:
    story = begun()
    story.report((14, 15), "w1", 7)
    lost(story)
    story.report((31, 32), "w1", 7, ALREADY_RECORDED)
    story.read((33, 34), COMPLETED, {7: DONE})
    story.listed(("t", ledger_label("r", 0)))
    return story


def a_completion_that_nobody_was_told_of() -> Story:
    story = begun()
    story.report((14, None), "w1", 7)
    lost(story)
    story.read((33, 34), COMPLETED, {7: DONE})
    return story


def a_submit_that_is_gone() -> Story:
    story = begun()
    story.submit((14, 15), "u", request="late")
    story.claim((16, 17), "w2", 8, task="u")
    return redriven_and_done(lost(story))


def a_submit_that_is_kept() -> Story:
    story = Story()
    story.submit((14, 15), "t")
    lost(story)
    story.claim((31, 32), "w1", 100)
    story.report((33, 34), "w1", 100)
    story.read((35, 36), COMPLETED, {100: DONE})
    story.listed(("t", ledger_label("r", 0)))
    return story


def a_claim_that_is_gone_and_a_task_that_runs_again_beside_its_holder() -> Story:
    story = begun(claimed=False)
    story.claim((14, 15), "w1", 7, lease_s=60)
    story.heartbeat((16, 17), "w1", 7, lease_s=60)
    lost(story)
    story.claim((31, 32), "w2", 100)
    story.heartbeat((33, 34), "w1", 7, Heartbeat.STATUS_LEASE_LOST)
    story.report((35, 36), "w1", 7, LEASE_LOST, state=RUNNING)
    story.report((37, 38), "w2", 100)
    story.read((39, 40), COMPLETED, {100: DONE})
    story.listed(("t", ledger_label("r", 0)))
    return story


def an_expiry_that_is_gone() -> Story:
    story = begun()
    story.report((16, 17), "w1", 7, LEASE_LOST, state=PENDING)
    story.read((18, 19), PENDING, {7: EXPIRED})
    return redriven_and_done(lost(story))


def a_lease_that_a_restore_gives_back() -> Story:
    story = lost(begun(), quarantined=False)
    story.read((31, 32), PENDING, {7: RELEASED})
    story.claim((35, 36), "w2", 100)
    story.report((37, 38), "w2", 100)
    story.read((39, 40), COMPLETED, {7: RELEASED, 100: DONE})
    return story


def a_cancel_under_way_that_a_restore_ends() -> Story:
    story = begun()
    story.cancel((7, 8), RUNNING)
    lost(story, quarantined=False)
    story.read((31, 32), CANCELLED, {7: task_pb2.Attempt.END_CANCELLED})
    return story


def a_cancel_under_way_that_a_quarantine_forgets() -> Story:
    story = begun()
    story.cancel((7, 8), RUNNING)
    return redriven_and_done(lost(story))


def a_submit_that_is_gone_and_comes_again_only_after_the_report() -> Story:
    story = Story()
    story.submit((13, None), "t")
    story.claim((14, 15), "w1", 7)
    lost(story)
    story.report((30.1, 30.3), "w1", 7, NOT_FOUND)
    story.submit((30, 30.4), "t")
    story.claim((31, 32), "w2", 100)
    story.report((33, 34), "w2", 100)
    story.read((35, 36), COMPLETED, {100: DONE})
    story.listed(("t", ledger_label("r", 0)))
    return story


def a_cluster_that_is_lost_twice() -> Story:
    story = lost(begun())
    story.read((30, 31), FAILED, {7: UNCERTAIN})
    story.redrive((31, 32), 1)
    story.claim((33, 34), "w2", 100)
    story.report((45, 46), "w2", 100)
    story.lose(40, (50, 60))
    story.redrive((61, 62), 1, request="d2")
    story.claim((63, 64), "w3", 200)
    story.report((65, 66), "w3", 200)
    ends = {7: UNCERTAIN, 100: UNCERTAIN, 200: DONE}
    story.read((67, 68), COMPLETED, ends, redrives=2)
    return story


@pytest.mark.parametrize(
    "tell",
    [
        a_lease_that_was_running,
        a_call_that_nobody_answered_before_the_next_cluster,
        a_completion_that_is_gone,
        a_completion_that_is_kept,
        a_completion_that_nobody_was_told_of,
        a_submit_that_is_gone,
        a_submit_that_is_kept,
        a_claim_that_is_gone_and_a_task_that_runs_again_beside_its_holder,
        an_expiry_that_is_gone,
        a_lease_that_a_restore_gives_back,
        a_cancel_under_way_that_a_restore_ends,
        a_cancel_under_way_that_a_quarantine_forgets,
        a_submit_that_is_gone_and_comes_again_only_after_the_report,
        a_cluster_that_is_lost_twice,
    ],
)
def test_what_may_be_lost_accuses_nobody(tell: Callable[[], Story]) -> None:
    ledger = tell().ledger

    assert report(ledger, check(ledger)) == ""


# ---------------------------------------------------------------- wrong


def a_certain_submit_that_is_gone() -> Story:
    story = Story()
    story.submit((8, 9), "t")
    lost(story)
    story.read((31, 32), None)
    story.listed()
    return story


def a_certain_claim_whose_report_finds_no_task() -> Story:
    story = begun()
    lost(story)
    story.report((31, 32), "w1", 7, NOT_FOUND)
    story.listed(("t", ledger_label("r", 0)))
    return story


def a_report_that_finds_no_task_after_the_task_was_acknowledged_once_more() -> Story:
    story = Story()
    story.submit((13, None), "t")
    story.claim((14, 15), "w1", 7)
    lost(story)
    story.submit((30, 31), "t")
    story.report((32, 33), "w1", 7, NOT_FOUND)
    story.claim((34, 35), "w2", 100)
    story.report((36, 37), "w2", 100)
    story.listed(("t", ledger_label("r", 0)))
    return story


def a_certain_completion_that_is_gone() -> Story:
    story = begun()
    story.report((8, 9), "w1", 7)
    return redriven_and_done(lost(story))


def a_submit_after_one_that_is_gone_and_itself_kept() -> Story:
    story = lost(begun())
    story.submit((12, 13), "early", request="early")
    story.submit((14, 15), "late", request="late")
    redriven_and_done(story)
    story.listed(("t", ledger_label("r", 0)), ("late", ledger_label("late", 0)))
    return story


def half_of_a_submit() -> Story:
    story = begun()
    story.submit((12, 13), "u", "v", request="both")
    redriven_and_done(lost(story))
    story.listed(("t", ledger_label("r", 0)), ("u", ledger_label("both", 0)))
    return story


def a_token_that_the_lost_end_had_used_for_another_task() -> Story:
    story = begun()
    story.submit((11, 12), "u", request="late")
    story.claim((13, 14), "w2", 8, task="u")
    return redriven_and_done(lost(story), token=8)


def a_token_below_those_of_the_lost_end() -> Story:
    story = begun()
    story.submit((11, 12), "u", request="late")
    story.claim((13, 14), "w2", 10, task="u")
    return redriven_and_done(lost(story), token=9)


def a_lease_that_lives_on() -> Story:
    story = lost(begun())
    story.heartbeat((31, 32), "w1", 7)
    return redriven_and_done(story)


def a_report_of_the_old_cluster_that_is_taken() -> Story:
    story = lost(begun())
    story.report((31, 32), "w1", 7, RECORDED)
    story.read((33, 34), COMPLETED, {7: DONE})
    return story


def a_task_that_ran_and_runs_again_without_a_word() -> Story:
    story = lost(begun())
    story.claim((35, 36), "w2", 100)
    story.report((37, 38), "w2", 100)
    story.read((39, 40), COMPLETED, {7: RELEASED, 100: DONE})
    return story


def a_quarantined_task_that_runs_without_a_redrive() -> Story:
    story = lost(begun())
    story.read((31, 32), FAILED, {7: UNCERTAIN})
    story.claim((35, 36), "w2", 100)
    story.report((37, 38), "w2", 100)
    story.read((39, 40), COMPLETED, {7: UNCERTAIN, 100: DONE})
    return story


def a_task_that_was_claimed_in_the_lost_end_and_runs_again_without_a_word() -> Story:
    """Its claim is kept, so it ran when the cluster was lost."""
    story = begun(claimed=False)
    story.claim((14, 15), "w1", 7, lease_s=60)
    lost(story)
    story.claim((35, 36), "w2", 100)
    story.report((37, 38), "w2", 100)
    story.read((39, 40), COMPLETED, {7: RELEASED, 100: DONE})
    return story


def a_completion_that_was_refused_and_is_recorded() -> Story:
    """The refusal may be gone, but the refused completion was not carried out."""
    story = begun()
    story.report((16, 17), "w1", 7, LEASE_LOST, state=PENDING)
    lost(story)
    story.read((31, 32), COMPLETED, {7: DONE})
    return story


def a_quarantine_of_what_had_ended() -> Story:
    story = begun()
    story.report((8, 9), "w1", 7, ending=Ending.RELEASE, state=PENDING)
    return redriven_and_done(lost(story))


def two_completions_that_are_both_certain() -> Story:
    """The checker reports the violation once, though both histories show it."""
    story = begun(claimed=False)
    story.claim((2, 3), "w1", 7, lease_s=1)
    story.claim((4, 5), "w2", 8)
    story.report((6, 7), "w2", 8)
    story.report((8, 9), "w1", 7)
    return lost(story)


def two_completions_that_were_told_before_all_was_lost() -> Story:
    """What a cluster says while it lives has to be right, though it is lost later."""
    story = begun(claimed=False)
    story.claim((11, 12), "w1", 7, lease_s=1)
    story.claim((13, 14), "w2", 8)
    story.report((15, 16), "w2", 8)
    story.report((17, 18), "w1", 7)
    lost(story)
    story.claim((31, 32), "w3", 100)
    story.report((33, 34), "w3", 100)
    story.read((35, 36), COMPLETED, {100: DONE})
    return story


def a_task_that_is_not_redriven_and_waits() -> Story:
    story = lost(begun(), quarantined=False)
    story.read((31, 32), PENDING, {7: RELEASED})
    return story


@pytest.mark.parametrize(
    ("tell", "promise", "said"),
    [
        (a_certain_claim_whose_report_finds_no_task, "I1", "its report found no such task"),
        (
            a_report_that_finds_no_task_after_the_task_was_acknowledged_once_more,
            "I1",
            "its report found no such task",
        ),
        (a_certain_submit_that_is_gone, "I1", "was acknowledged and is not found"),
        (a_certain_completion_that_is_gone, "I5", "acknowledged to w1"),
        (a_submit_after_one_that_is_gone_and_itself_kept, "I1", "request early was acknowledged"),
        (half_of_a_submit, "I2", "created only its items [0] of 2"),
        (a_token_that_the_lost_end_had_used_for_another_task, "I3", "token 8 of a cluster that"),
        (a_token_below_those_of_the_lost_end, "I3", "which had to begin above 10"),
        (a_lease_that_lives_on, "I3", "is still live in the next"),
        (a_report_of_the_old_cluster_that_is_taken, "I3", "is still live in the next"),
        (a_task_that_ran_and_runs_again_without_a_word, "I6", "no order of its calls"),
        (a_quarantined_task_that_runs_without_a_redrive, "I6", "no order of its calls"),
        (
            a_task_that_was_claimed_in_the_lost_end_and_runs_again_without_a_word,
            "I6",
            "no order of its calls",
        ),
        (a_completion_that_was_refused_and_is_recorded, "I5", "which nobody reported"),
        (a_quarantine_of_what_had_ended, "I5", "its history says END_UNCERTAIN"),
        (two_completions_that_are_both_certain, "I4", "was completed 2 times"),
        (two_completions_that_were_told_before_all_was_lost, "I4", "was completed 2 times"),
        (a_task_that_is_not_redriven_and_waits, "I8", "is still TASK_STATE_PENDING"),
    ],
)
def test_what_no_loss_excuses_is_caught(tell: Callable[[], Story], promise: str, said: str) -> None:
    ledger = tell().ledger

    found = check(ledger)

    assert len(found) == len(set(found))
    assert promise in {violation.invariant for violation in found}, report(ledger, found)
    assert said in report(ledger, found, at_most=99)


def test_the_history_of_a_task_tells_of_the_loss_where_it_happened() -> None:
    told = list(a_completion_that_is_gone().ledger.history("t"))

    [at] = [number for number, line in enumerate(told) if "the cluster was lost" in line]
    assert "acknowledged until 10.000 is certain" in told[at]
    assert "read: TASK_STATE_COMPLETED" in told[at - 1]
    assert "read: TASK_STATE_FAILED" in told[at + 1]
