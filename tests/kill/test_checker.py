"""The checker is trusted because histories that are wrong, each in its own way, are caught."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.history.calls import Ending
from chaos.history.record import ledger_label
from chaos.history.verdict import check, report
from tests.kill.story import (
    ALREADY_RECORDED,
    COMPLETED,
    DONE,
    EXPIRED,
    HELD,
    LEASE_LOST,
    LEFT_OFF,
    PENDING,
    RETRYING,
    RUNNING,
    Heartbeat,
    Report,
    Story,
    one_task_done,
    one_task_submitted,
)


def a_plain_run() -> Story:
    return one_task_done()


def a_report_without_an_answer_that_was_recorded() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7)
    story.read((8, 9), COMPLETED, {7: DONE})
    return story


def a_report_that_is_repeated_after_no_answer() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7)
    story.report((4, 5), "w1", 7, ALREADY_RECORDED)
    story.read((8, 9), COMPLETED, {7: DONE})
    return story


def a_submit_without_an_answer_that_created_nothing() -> Story:
    story = one_task_done()
    story.submit((2, None), request="other")
    return story


def a_submit_without_an_answer_that_created_its_task() -> Story:
    story = Story()
    story.submit((0, None), request="r")
    story.claim((1, 2), "w1", 7)
    story.report((5, 6), "w1", 7)
    story.read((8, 9), COMPLETED, {7: DONE})
    story.listed(("t", ledger_label("r", 0)))
    return story


def a_submit_retried_until_it_is_answered() -> Story:
    story = Story()
    story.submit((0, None))
    story.refuse_submit((1, 2))
    story.submit((3, 4), "t")
    story.submit((5, 6), "t")
    story.read((8, 9), PENDING)
    story.listed(("t", ledger_label("r", 0)))
    return story


def a_claim_without_an_answer_whose_lease_expired() -> Story:
    story = one_task_submitted()
    story.claim((1, None), "w1", 6)
    story.claim((12, 13), "w2", 7)
    story.report((14, 15), "w2", 7)
    story.read((16, 17), COMPLETED, {6: EXPIRED, 7: DONE})
    return story


def a_worker_too_late_that_is_told_so() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 6, lease_s=3)
    story.claim((2, 6), "w2", 7)
    story.report((7, 8), "w1", 6, LEASE_LOST)
    story.report((9, 10), "w2", 7)
    story.read((16, 17), COMPLETED, {6: EXPIRED, 7: DONE})
    return story


def a_failure_retried_by_the_next_lease() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 6)
    story.report((3, 4), "w1", 6, ending=Ending.FAIL, state=RETRYING)
    story.claim((5, 6), "w2", 7)
    story.report((7, 8), "w2", 7)
    story.read((16, 17), COMPLETED, {6: LEFT_OFF, 7: DONE})
    return story


def a_renewal_answered_after_its_worker_had_stopped() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 6, lease_s=3)
    story.claim((6, 7), "w2", 7)
    story.heartbeat((3, 8), "w1", 6, lease_s=10)
    return story


def a_read_that_found_no_leader() -> Story:
    story = one_task_done()
    story.refuse_read((10, 11))
    return story


@pytest.mark.parametrize(
    "tell",
    [
        a_plain_run,
        a_report_without_an_answer_that_was_recorded,
        a_report_that_is_repeated_after_no_answer,
        a_submit_without_an_answer_that_created_nothing,
        a_submit_without_an_answer_that_created_its_task,
        a_submit_retried_until_it_is_answered,
        a_claim_without_an_answer_whose_lease_expired,
        a_worker_too_late_that_is_told_so,
        a_failure_retried_by_the_next_lease,
        a_renewal_answered_after_its_worker_had_stopped,
        a_read_that_found_no_leader,
    ],
)
def test_a_history_that_keeps_the_contract_passes(tell: Callable[[], Story]) -> None:
    ledger = tell().ledger

    assert report(ledger, check(ledger, all_finished=False)) == ""


def test_a_history_whose_tasks_all_finished_passes_in_full() -> None:
    ledger = one_task_done().ledger

    assert report(ledger, check(ledger)) == ""


def an_acknowledged_task_that_is_not_found() -> Story:
    story = one_task_submitted()
    story.read((2, 3), None)
    return story


def an_acknowledged_task_that_is_not_listed() -> Story:
    story = one_task_submitted()
    story.listed()
    return story


def a_claimed_task_whose_report_finds_no_task() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, Report.STATUS_NOT_FOUND)
    return story


def a_retry_answered_with_another_task() -> Story:
    story = one_task_submitted()
    story.submit((2, 3), "t-again")
    return story


def two_requests_answered_with_one_task() -> Story:
    story = Story()
    story.submit((0, 1), "t", request="r1")
    story.submit((0, 1), "t", request="r2")
    return story


def a_retry_that_created_a_second_task() -> Story:
    story = Story()
    story.submit((0, None))
    story.submit((2, 3), "t")
    story.listed(("t", "r/0"), ("t-again", "r/0"))
    return story


def a_task_that_nobody_submitted() -> Story:
    story = one_task_done()
    story.listed(("t", "r/0"), ("ghost", "never/0"))
    return story


def a_refused_submit_whose_task_exists() -> Story:
    story = Story()
    story.refuse_submit((0, 1))
    story.listed(("t", "r/0"))
    return story


def an_unanswered_submit_that_created_half_of_its_tasks() -> Story:
    story = Story()
    story.submit((0, None), tasks=2)
    story.listed(("t", "r/1"))
    return story


def two_workers_that_hold_one_task_at_once() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.claim((3, 4), "w2", 8)
    return story


def a_renewed_lease_that_is_given_to_another_worker() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.heartbeat((9, 10), "w1", 7)
    story.claim((13, 14), "w2", 8)
    return story


def one_token_for_two_workers() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ending=Ending.RELEASE, state=PENDING)
    story.claim((5, 6), "w2", 7)
    return story


def one_token_for_two_tasks() -> Story:
    story = Story()
    story.submit((0, 1), "t", "u")
    story.claim((1, 2), "w1", 7)
    story.claim((3, 4), "w2", 7, task="u")
    return story


def a_later_claim_with_a_lower_token() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 9, lease_s=2)
    story.claim((5, 6), "w2", 8)
    return story


def a_task_completed_under_two_tokens() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7, lease_s=2)
    story.claim((5, 6), "w2", 8)
    story.report((6, 7), "w1", 7)
    story.report((7, 8), "w2", 8)
    return story


def one_token_recorded_twice() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7)
    story.report((5, 6), "w1", 7)
    return story


def one_token_accepted_as_failure_and_completion() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ending=Ending.FAIL)
    story.report((5, 6), "w1", 7, ALREADY_RECORDED)
    return story


def a_history_with_two_completions() -> Story:
    story = one_task_submitted()
    story.read((8, 9), COMPLETED, {7: DONE, 8: DONE})
    return story


def an_acknowledged_completion_that_is_gone() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7)
    story.read((8, 9), RUNNING, {7: HELD})
    return story


def an_acknowledged_completion_recorded_as_expired() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7)
    story.read((8, 9), COMPLETED, {7: EXPIRED})
    return story


def an_acknowledged_attempt_that_the_record_does_not_know() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7)
    story.read((8, 9), COMPLETED)
    return story


def a_result_that_is_not_the_acknowledged_one() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7)
    story.read((8, 9), COMPLETED, {7: DONE}, result=b"another's")
    return story


def a_completion_whose_worker_was_told_that_its_lease_was_lost() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7)
    story.report((4, 5), "w1", 7, LEASE_LOST)
    story.read((8, 9), COMPLETED, {7: DONE})
    return story


def a_completion_that_nobody_reported() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.read((8, 9), COMPLETED, {7: DONE})
    return story


def a_result_that_nobody_reported() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7)
    story.read((8, 9), COMPLETED, {7: DONE}, result=b"from nowhere")
    return story


def a_claim_answered_before_its_task_was_submitted() -> Story:
    story = Story()
    story.claim((0, 1), "w1", 7)
    story.submit((2, 3), "t")
    return story


def a_stale_report_recorded_after_the_next_claim() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7, lease_s=2)
    story.claim((5, 6), "w2", 8)
    story.report((7, 8), "w1", 7)
    return story


def a_lease_renewed_after_its_completion() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7)
    story.heartbeat((5, 6), "w1", 7)
    return story


def a_lease_renewed_after_it_was_called_lost() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.heartbeat((3, 4), "w1", 7, Heartbeat.STATUS_LEASE_LOST)
    story.heartbeat((5, 6), "w1", 7)
    return story


def a_read_that_goes_back_in_time() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7)
    story.read((8, 9), RUNNING, {7: HELD})
    story.read((10, 11), COMPLETED, {7: DONE})
    return story


def a_task_that_never_finished() -> Story:
    story = one_task_submitted()
    story.read((8, 9), PENDING)
    return story


def an_unanswered_submit_whose_task_never_finished() -> Story:
    story = Story()
    story.submit((0, None))
    story.read((8, 9), PENDING)
    story.listed(("t", "r/0"))
    return story


def a_task_whose_end_nobody_looked_at() -> Story:
    return one_task_submitted()


@pytest.mark.parametrize(
    ("tell", "invariant", "message"),
    [
        (an_acknowledged_task_that_is_not_found, "I1", "was acknowledged and is not found"),
        (an_acknowledged_task_that_is_not_listed, "I1", "was acknowledged and is not listed"),
        (a_claimed_task_whose_report_finds_no_task, "I1", "its report found no such task"),
        (a_retry_answered_with_another_task, "I2", "answered with ['t'] and ['t-again']"),
        (two_requests_answered_with_one_task, "I2", "created by several requests: r1, r2"),
        (a_retry_that_created_a_second_task, "I2", "r/0 was created 2 times"),
        (a_task_that_nobody_submitted, "I2", "ghost ('never/0') was submitted by nobody"),
        (a_refused_submit_whose_task_exists, "I2", "was refused and exists all the same"),
        (an_unanswered_submit_that_created_half_of_its_tasks, "I2", "only its items [1] of 2"),
        (two_workers_that_hold_one_task_at_once, "I3", "w1 (token 7) until 10.900 s, w2 (tok"),
        (a_renewed_lease_that_is_given_to_another_worker, "I3", "w1 (token 7) until 18.900 s"),
        (one_token_for_two_workers, "I3", "token 7 was given to w1, w2"),
        (one_token_for_two_tasks, "I3", "shares token 7 with task t"),
        (a_later_claim_with_a_lower_token, "I6", "the claim of token 9 was answered at 2.000 s"),
        (a_task_completed_under_two_tokens, "I4", "was completed 2 times: [7, 8]"),
        (one_token_recorded_twice, "I4", "token 7 was recorded 2 times"),
        (one_token_accepted_as_failure_and_completion, "I4", "accepted as complete and fail"),
        (a_history_with_two_completions, "I4", "its history holds completions [7, 8]"),
        (an_acknowledged_completion_that_is_gone, "I5", "and it is TASK_STATE_RUNNING"),
        (an_acknowledged_completion_recorded_as_expired, "I5", "says END_LEASE_EXPIRED"),
        (an_acknowledged_attempt_that_the_record_does_not_know, "I5", "has no such attempt"),
        (a_result_that_is_not_the_acknowledged_one, "I5", "its result is another one"),
        (a_completion_whose_worker_was_told_that_its_lease_was_lost, "I5", "lease was lost"),
        (a_completion_that_nobody_reported, "I5", "which nobody reported"),
        (a_result_that_nobody_reported, "I5", "its result is none that was ever reported"),
        (a_claim_answered_before_its_task_was_submitted, "I6", "before the submit, which comes"),
        (a_stale_report_recorded_after_the_next_claim, "I6", "before the complete with token 7"),
        (a_lease_renewed_after_its_completion, "I6", "before the renewal of token 7"),
        (a_lease_renewed_after_it_was_called_lost, "I6", 'the "lease lost" for token 7'),
        (a_read_that_goes_back_in_time, "I6", "before a read of RUNNING"),
        (a_task_that_never_finished, "I8", "is still TASK_STATE_PENDING"),
        (an_unanswered_submit_whose_task_never_finished, "I8", "is still TASK_STATE_PENDING"),
        (a_task_whose_end_nobody_looked_at, "I8", "nobody looked what became of it"),
    ],
)
def test_a_history_that_breaks_a_promise_is_caught(
    tell: Callable[[], Story], invariant: str, message: str
) -> None:
    violations = check(tell().ledger, all_finished=invariant == "I8")

    messages = [v.message for v in violations if v.invariant == invariant]
    assert any(message in one for one in messages), violations


def test_a_violation_shows_the_calls_that_led_to_it() -> None:
    ledger = a_completion_that_nobody_reported().ledger

    told = report(ledger, check(ledger, all_finished=False))

    assert "0.000 to    1.000  client: submit r: applied" in told
    assert "w1: claim claim-7: token 7" in told
    assert "read: TASK_STATE_COMPLETED, token 7 END_COMPLETED" in told
