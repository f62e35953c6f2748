"""Whether a task's calls can be put in an order: what an order explains, and what none does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.history import linearizability
from chaos.history.calls import Ending
from chaos.history.facts import Facts
from chaos.history.orders import contradiction
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
    one_task_done,
)
from tq.v1 import task_pb2

DONE = task_pb2.Attempt.END_COMPLETED
EXPIRED = task_pb2.Attempt.END_LEASE_EXPIRED
LEFT_OFF = task_pb2.Attempt.END_FAILED
RELEASED = task_pb2.Attempt.END_RELEASED
STOPPED = task_pb2.Attempt.END_CANCELLED
HELD = task_pb2.Attempt.END_RUNNING
RETRYING = task_pb2.TASK_STATE_RETRYING
FAILED = task_pb2.TASK_STATE_FAILED
CANCELLED = task_pb2.TASK_STATE_CANCELLED
MARKED = Heartbeat.STATUS_CANCEL_REQUESTED
CANCEL_WON = Report.STATUS_CANCELLED


def begun() -> Story:
    story = Story()
    story.submit((0, 1), "t")
    return story


def dead_letter() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ending=Ending.FAIL, state=FAILED)
    return story


# ---------------------------------------------------------------- odd, and right


def an_unanswered_completion_that_shows_only_much_later() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7)
    story.read((4, 5), RUNNING, {7: HELD})
    story.read((6, 7), COMPLETED, {7: DONE})
    return story


def an_unanswered_completion_that_never_arrived() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7, lease_s=3)
    story.report((3, None), "w1", 7)
    story.claim((5, 8), "w2", 9)
    story.report((9, 10), "w2", 9)
    story.read((11, 12), COMPLETED, {7: EXPIRED, 9: DONE})
    return story


def a_repeated_completion_that_was_recorded_the_first_time() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7)
    story.read((4, 5), COMPLETED, {7: DONE})
    story.report((6, 7), "w1", 7, ALREADY_RECORDED)
    return story


def two_reads_at_once_that_see_before_and_after() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.report((3, 9), "w1", 7)
    story.read((4, 8), COMPLETED, {7: DONE})
    story.read((4, 8), RUNNING, {7: HELD})
    return story


def a_lease_of_an_unanswered_claim_that_expired() -> Story:
    story = begun()
    story.claim((1, None), "w1", 7)
    story.read((3, 4), RUNNING, {7: HELD})
    story.read((13, 14), RETRYING, {7: EXPIRED})
    return story


def a_cancel_that_came_too_late() -> Story:
    story = one_task_done()
    story.cancel((6, 7), COMPLETED)
    return story


def a_cancel_that_marks_and_a_worker_that_was_first_all_the_same() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.heartbeat((5, 6), "w1", 7, MARKED)
    story.report((7, 8), "w1", 7, RECORDED)
    story.read((9, 10), COMPLETED, {7: DONE})
    return story


def a_cancel_that_takes_a_failure_as_the_end() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.report((5, 6), "w1", 7, CANCEL_WON, ending=Ending.FAIL, state=CANCELLED)
    story.read((7, 8), CANCELLED, {7: STOPPED})
    return story


def an_unanswered_cancel_that_took_effect_between_two_reads() -> Story:
    story = begun()
    story.cancel((1, None), None)
    story.read((2, 3), PENDING)
    story.read((4, 5), CANCELLED)
    return story


def a_cancel_repeated_after_a_redrive() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, None), None)
    story.report((4, 5), "w1", 7, ending=Ending.FAIL, state=FAILED)
    story.cancel((6, 7), FAILED)
    story.redrive((8, 9), 1)
    story.read((10, 11), PENDING, {7: LEFT_OFF}, redrives=1)
    return story


def a_redrive_whose_answer_was_lost_and_that_is_repeated() -> Story:
    story = dead_letter()
    story.redrive((5, None), 0)
    story.claim((6, 7), "w1", 8)
    story.redrive((7, 8), 1)
    story.report((9, 10), "w1", 8)
    story.read((11, 12), COMPLETED, {7: LEFT_OFF, 8: DONE}, redrives=1)
    return story


def a_purge_that_met_the_task_before_its_worker_did() -> Story:
    story = begun()
    story.purge((2, 5), 1)
    story.cancel((6, 7), CANCELLED)
    story.read((8, 9), CANCELLED)
    return story


def a_slow_redrive_of_a_queue_whose_task_failed_only_meanwhile() -> Story:
    story = begun()
    story.redrive((1, 8), 1, queue="q")
    story.claim((2, 3), "w1", 7)
    story.report((4, 5), "w1", 7, ending=Ending.FAIL, state=FAILED)
    story.claim((6, 7), "w1", 8)
    story.report((9, 10), "w1", 8)
    return story


def a_read_of_what_an_earlier_sending_of_its_claim_was_granted() -> Story:
    story = begun()
    story.claim((1, None), "w1", 7)
    story.read((2, 3), RUNNING, {7: HELD})
    story.claim((4, 5), "w1", 7)
    story.report((6, 7), "w1", 7)
    return story


def a_deleted_dead_letter_whose_worker_asks_once_more() -> Story:
    story = dead_letter()
    story.delete((5, 6), 1)
    story.report((7, 8), "w1", 7, Report.STATUS_NOT_FOUND, ending=Ending.FAIL)
    story.read((9, 10), None)
    return story


def a_grant_whose_answer_took_longer_than_the_pause_that_followed_it() -> Story:
    story = Story()
    story.submit((0, 1), "t")
    story.claim((1, 6), "w1", 7)
    story.pause((2, 3), paused=True)
    story.read((4, 5), RUNNING, {7: HELD}, queue="q")
    return story


def a_report_that_a_broker_passed_on_twice() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ALREADY_RECORDED)
    story.read((5, 6), COMPLETED, {7: DONE})
    return story


def a_grant_that_nobody_saw_and_the_leader_took_back() -> Story:
    story = begun()
    story.claim((1, None), "w1", 7)
    story.claim((2, 3), "w1", 8)
    story.read((4, 5), RUNNING, {7: RELEASED, 8: HELD})
    return story


def a_claim_passed_on_twice_that_was_told_only_what_it_lost() -> Story:
    story = begun()
    story.claim_of_what_is_lost((1, 3), "w1")
    story.claim((2, 4), "w1", 8)
    story.read((5, 6), RUNNING, {7: RELEASED, 8: HELD})
    return story


def a_repeated_failure_whose_first_sending_met_a_cancel() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.report((5, None), "w1", 7, ending=Ending.FAIL)
    story.report((6, 7), "w1", 7, ALREADY_RECORDED, ending=Ending.FAIL, state=CANCELLED)
    story.read((8, 9), CANCELLED, {7: STOPPED})
    return story


def a_redrive_of_the_queue_that_met_the_task_only_just() -> Story:
    story = begun()
    story.redrive((0.5, 6), 1, queue="q")
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ending=Ending.FAIL, state=FAILED)
    story.read((5, 7), PENDING, {7: LEFT_OFF}, redrives=1)
    return story


RIGHT = [
    a_redrive_of_the_queue_that_met_the_task_only_just,
    a_report_that_a_broker_passed_on_twice,
    a_grant_that_nobody_saw_and_the_leader_took_back,
    a_repeated_failure_whose_first_sending_met_a_cancel,
    a_claim_passed_on_twice_that_was_told_only_what_it_lost,
    an_unanswered_completion_that_shows_only_much_later,
    an_unanswered_completion_that_never_arrived,
    a_repeated_completion_that_was_recorded_the_first_time,
    two_reads_at_once_that_see_before_and_after,
    a_lease_of_an_unanswered_claim_that_expired,
    a_cancel_that_came_too_late,
    a_cancel_that_marks_and_a_worker_that_was_first_all_the_same,
    a_cancel_that_takes_a_failure_as_the_end,
    an_unanswered_cancel_that_took_effect_between_two_reads,
    a_cancel_repeated_after_a_redrive,
    a_redrive_whose_answer_was_lost_and_that_is_repeated,
    a_purge_that_met_the_task_before_its_worker_did,
    a_slow_redrive_of_a_queue_whose_task_failed_only_meanwhile,
    a_read_of_what_an_earlier_sending_of_its_claim_was_granted,
    a_deleted_dead_letter_whose_worker_asks_once_more,
    a_grant_whose_answer_took_longer_than_the_pause_that_followed_it,
]


@pytest.mark.parametrize("tell", RIGHT)
def test_a_history_that_only_looks_odd_passes(tell: Callable[[], Story]) -> None:
    ledger = tell().ledger

    assert report(ledger, check(ledger, all_finished=False)) == ""


# ---------------------------------------------------------------- wrong


def an_acknowledged_cancel_that_a_read_does_not_show() -> Story:
    story = begun()
    story.cancel((2, 3), CANCELLED)
    story.read((4, 5), PENDING)
    return story


def a_cancelled_task_that_is_claimed() -> Story:
    story = begun()
    story.cancel((2, 3), CANCELLED)
    story.claim((4, 5), "w1", 7)
    return story


def a_task_cancelled_by_nobody() -> Story:
    story = begun()
    story.read((2, 3), CANCELLED)
    return story


def a_cancel_that_hits_a_completed_task() -> Story:
    story = one_task_done()
    story.cancel((10, 11), CANCELLED)
    return story


def a_mark_that_the_next_heartbeat_does_not_carry() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.heartbeat((5, 6), "w1", 7)
    return story


def a_repeated_cancel_that_is_carried_out_twice() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.report((5, 6), "w1", 7, RECORDED)
    story.cancel((7, 8), CANCELLED)
    return story


def a_redrive_of_what_is_no_dead_letter() -> Story:
    story = begun()
    story.redrive((2, 3), 1)
    return story


def a_redrive_that_a_dead_letter_was_denied() -> Story:
    story = dead_letter()
    story.redrive((5, 6), 0)
    return story


def a_redrive_carried_out_twice_under_one_request() -> Story:
    story = dead_letter()
    story.redrive((5, 6), 1)
    story.claim((6, 7), "w1", 8)
    story.report((8, 9), "w1", 8, ending=Ending.FAIL, state=FAILED)
    story.redrive((10, 11), 1)
    story.read((12, 13), PENDING, {7: LEFT_OFF, 8: LEFT_OFF}, redrives=2)
    return story


def a_redrive_that_lost_the_history() -> Story:
    story = dead_letter()
    story.redrive((5, 6), 1)
    story.read((7, 8), PENDING, redrives=1)
    return story


def a_deleted_task_that_comes_back() -> Story:
    story = dead_letter()
    story.delete((5, 6), 1)
    story.read((7, 8), None)
    story.read((9, 10), FAILED, {7: LEFT_OFF})
    return story


def a_task_that_is_gone_without_a_deletion() -> Story:
    story = dead_letter()
    story.delete((5, 6), 0, request="x")
    story.read((7, 8), None)
    return story


def a_read_that_forgets_an_expired_attempt() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7, lease_s=3)
    story.claim((6, 7), "w2", 8)
    story.read((8, 9), RUNNING, {8: HELD})
    return story


def an_already_recorded_that_was_never_recorded() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ALREADY_RECORDED)
    story.read((5, 6), RUNNING, {7: HELD})
    return story


def a_lease_called_lost_while_it_lives() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, LEASE_LOST)
    story.read((5, 6), RUNNING, {7: HELD})
    return story


def a_release_counted_as_a_failure() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ending=Ending.RELEASE, state=RETRYING)
    return story


def a_result_that_changes_after_it_was_read() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7, result=b"one")
    story.report((3, None), "w1", 7, result=b"two")
    story.read((5, 6), COMPLETED, {7: DONE}, result=b"one")
    story.read((7, 8), COMPLETED, {7: DONE}, result=b"two")
    return story


def a_lease_that_nobody_asked_for() -> Story:
    story = begun()
    story.read((3, 4), RUNNING, {7: HELD})
    return story


def a_release_that_nobody_reported() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7)
    story.read((4, 5), PENDING, {7: RELEASED})
    return story


def a_purge_that_hits_a_task_of_another_queue() -> Story:
    story = begun()
    story.purge((2, 3), 1, queue="other")
    story.read((4, 5), CANCELLED, queue="q")
    return story


def a_lease_that_expires_before_its_time() -> Story:
    story = begun()
    story.claim((1, 2), "w1", 7, lease_s=10)
    story.heartbeat((3, 4), "w1", 7, lease_s=10)
    story.read((8, 9), RETRYING, {7: EXPIRED})
    return story


def a_grant_while_the_queue_is_paused() -> Story:
    story = begun()
    story.pause((2, 3), paused=True)
    story.claim((4, 5), "w1", 7)
    story.pause((6, 7), paused=False)
    story.read((8, 9), RUNNING, {7: HELD}, queue="q")
    return story


def a_queue_that_counts_more_than_it_lists() -> Story:
    story = one_task_done()
    story.listed_in("q", ("t", "r/0", COMPLETED))
    story.counted("q", completed=2, ever_submitted=1, ever_completed=1)
    return story


def a_queue_that_completed_one_task_twice() -> Story:
    story = one_task_done()
    story.listed_in("q", ("t", "r/0", COMPLETED))
    story.counted("q", completed=1, ever_submitted=1, ever_completed=2)
    return story


def a_purge_that_says_more_than_it_did() -> Story:
    story = begun()
    story.purge((2, 3), 2)
    story.listed_in("q", ("t", "r/0", CANCELLED))
    story.counted("q", cancelled=1, ever_submitted=1, ever_cancelled=1)
    return story


REFUTED = [
    (an_acknowledged_cancel_that_a_read_does_not_show, "after which it is CANCELLED"),
    (a_cancelled_task_that_is_claimed, "contradicts the grant of token 7"),
    (a_task_cancelled_by_nobody, "contradicts a read of CANCELLED"),
    (a_cancel_that_hits_a_completed_task, "contradicts a cancel (10.000 s to 11.000 s)"),
    (a_mark_that_the_next_heartbeat_does_not_carry, "contradicts the renewal of token 7"),
    (a_repeated_cancel_that_is_carried_out_twice, "contradicts a cancel (7.000 s to 8.000 s)"),
    (a_redrive_of_what_is_no_dead_letter, "contradicts a redrive"),
    (a_redrive_that_a_dead_letter_was_denied, "contradicts a redrive"),
    (a_redrive_carried_out_twice_under_one_request, "contradicts a read of PENDING"),
    (a_redrive_that_lost_the_history, "contradicts a read of PENDING after 0 attempts"),
    (a_deleted_task_that_comes_back, "contradicts a read of FAILED"),
    (a_task_that_is_gone_without_a_deletion, "no order of its calls explains"),
    (a_read_that_forgets_an_expired_attempt, "contradicts a read of RUNNING after 1 attempts"),
    (an_already_recorded_that_was_never_recorded, "contradicts a read of RUNNING after 1"),
    (a_lease_called_lost_while_it_lives, "no order of its calls explains every answer"),
    (a_release_counted_as_a_failure, "contradicts the release with token 7"),
    (a_result_that_changes_after_it_was_read, "no order of its calls explains every answer"),
    (a_lease_that_nobody_asked_for, "contradicts a read of RUNNING"),
    (a_release_that_nobody_reported, "contradicts a read of PENDING after 1 attempts"),
    (a_purge_that_hits_a_task_of_another_queue, "contradicts a read of CANCELLED"),
]

WRONG_TOGETHER = [
    (a_lease_that_expires_before_its_time, "read as expired at 9.000 s and lasts until 12.900"),
    (a_grant_while_the_queue_is_paused, "token 7 was granted while its queue q was paused"),
    (a_queue_that_counts_more_than_it_lists, "counts 2 tasks completed, and lists 1"),
    (a_queue_that_completed_one_task_twice, "says that 2 were completed since it began"),
    (a_purge_that_says_more_than_it_did, "told that 2 were purged, and lists 1 as cancelled"),
]


@pytest.mark.parametrize(("tell", "message"), REFUTED)
def test_a_history_that_no_order_explains_is_refuted(
    tell: Callable[[], Story], message: str
) -> None:
    facts = Facts(tell().ledger)

    found = contradiction(facts, facts.task("t"))

    assert found is not None
    assert message in found.message
    assert check(facts.ledger, all_finished=False)


@pytest.mark.parametrize(("tell", "message"), WRONG_TOGETHER)
def test_a_history_whose_times_or_sums_are_wrong_is_caught(
    tell: Callable[[], Story], message: str
) -> None:
    violations = check(tell().ledger, all_finished=False)

    assert any(message in violation.message for violation in violations), violations


def test_a_search_without_an_end_is_given_up_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linearizability, "CONFIGURATIONS_MAX", 3)
    facts = Facts(a_result_that_changes_after_it_was_read().ledger)

    found = contradiction(facts, facts.task("t"))

    assert found is not None
    assert "the search for an order was given up" in found.message


def test_a_long_history_with_many_unanswered_calls_is_judged_at_once() -> None:
    story = begun()
    for number in range(300):
        at = 2.0 + number
        story.claim((at, at + 0.1), "w1", number + 1, lease_s=3)
        story.read((at + 0.1, at + 0.2), RUNNING, attempts_of(number, HELD))
        story.report((at + 0.2, None), "w1", number + 1, ending=Ending.RELEASE)
        story.read((at + 0.3, at + 0.4), PENDING, attempts_of(number, RELEASED))

    assert report(story.ledger, check(story.ledger, all_finished=False)) == ""


def attempts_of(
    number: int, last: task_pb2.Attempt.End.ValueType
) -> dict[int, task_pb2.Attempt.End.ValueType]:
    """What a read shows after so many released attempts, and one more."""
    tokens = range(1, number + 2)
    ends = dict.fromkeys(tokens, RELEASED) | {number + 1: last}
    return {token: ends[token] for token in list(tokens)[-50:]}
