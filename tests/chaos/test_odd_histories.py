"""Histories that only look odd: some order of a task's calls explains every answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.history.calls import Ending
from chaos.history.verdict import check, report
from tests.kill.story import (
    ALREADY_RECORDED,
    CANCEL_WON,
    CANCELLED,
    COMPLETED,
    DONE,
    EXPIRED,
    FAILED,
    HELD,
    LEFT_OFF,
    MARKED,
    PENDING,
    RECORDED,
    RELEASED,
    RETRYING,
    RUNNING,
    STOPPED,
    Report,
    Story,
    one_dead_letter,
    one_task_done,
    one_task_submitted,
)
from tq.v1 import task_pb2


def an_unanswered_completion_that_shows_only_much_later() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7)
    story.read((4, 5), RUNNING, {7: HELD})
    story.read((6, 7), COMPLETED, {7: DONE})
    return story


def an_unanswered_completion_that_never_arrived() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7, lease_s=3)
    story.report((3, None), "w1", 7)
    story.claim((5, 8), "w2", 9)
    story.report((9, 10), "w2", 9)
    story.read((11, 12), COMPLETED, {7: EXPIRED, 9: DONE})
    return story


def a_repeated_completion_that_was_recorded_the_first_time() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7)
    story.read((4, 5), COMPLETED, {7: DONE})
    story.report((6, 7), "w1", 7, ALREADY_RECORDED)
    return story


def two_reads_at_once_that_see_before_and_after() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 9), "w1", 7)
    story.read((4, 8), COMPLETED, {7: DONE})
    story.read((4, 8), RUNNING, {7: HELD})
    return story


def a_lease_of_an_unanswered_claim_that_expired() -> Story:
    story = one_task_submitted()
    story.claim((1, None), "w1", 7)
    story.read((3, 4), RUNNING, {7: HELD})
    story.read((13, 14), RETRYING, {7: EXPIRED})
    return story


def a_cancel_that_came_too_late() -> Story:
    story = one_task_done()
    story.cancel((6, 7), COMPLETED)
    return story


def a_cancel_that_marks_and_a_worker_that_was_first_all_the_same() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.heartbeat((5, 6), "w1", 7, MARKED)
    story.report((7, 8), "w1", 7, RECORDED)
    story.read((9, 10), COMPLETED, {7: DONE})
    return story


def a_cancel_that_takes_a_failure_as_the_end() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.report((5, 6), "w1", 7, CANCEL_WON, ending=Ending.FAIL, state=CANCELLED)
    story.read((7, 8), CANCELLED, {7: STOPPED})
    return story


def an_unanswered_cancel_that_took_effect_between_two_reads() -> Story:
    story = one_task_submitted()
    story.cancel((1, None), None)
    story.read((2, 3), PENDING)
    story.read((4, 5), CANCELLED)
    return story


def a_cancel_repeated_after_a_redrive() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, None), None)
    story.report((4, 5), "w1", 7, ending=Ending.FAIL, state=FAILED)
    story.cancel((6, 7), FAILED)
    story.redrive((8, 9), 1)
    story.read((10, 11), PENDING, {7: LEFT_OFF}, redrives=1)
    return story


def a_redrive_whose_answer_was_lost_and_that_is_repeated() -> Story:
    story = one_dead_letter()
    story.redrive((5, None), 0)
    story.claim((6, 7), "w1", 8)
    story.redrive((7, 8), 1)
    story.report((9, 10), "w1", 8)
    story.read((11, 12), COMPLETED, {7: LEFT_OFF, 8: DONE}, redrives=1)
    return story


def a_purge_that_met_the_task_before_its_worker_did() -> Story:
    story = one_task_submitted()
    story.purge((2, 5), 1)
    story.cancel((6, 7), CANCELLED)
    story.read((8, 9), CANCELLED)
    return story


def a_slow_redrive_of_a_queue_whose_task_failed_only_meanwhile() -> Story:
    story = one_task_submitted()
    story.redrive((1, 8), 1, queue="q")
    story.claim((2, 3), "w1", 7)
    story.report((4, 5), "w1", 7, ending=Ending.FAIL, state=FAILED)
    story.claim((6, 7), "w1", 8)
    story.report((9, 10), "w1", 8)
    return story


def a_read_of_what_an_earlier_sending_of_its_claim_was_granted() -> Story:
    story = one_task_submitted()
    story.claim((1, None), "w1", 7)
    story.read((2, 3), RUNNING, {7: HELD})
    story.claim((4, 5), "w1", 7)
    story.report((6, 7), "w1", 7)
    return story


def a_deleted_dead_letter_whose_worker_asks_once_more() -> Story:
    story = one_dead_letter()
    story.delete((5, 6), 1)
    story.report((7, 8), "w1", 7, Report.STATUS_NOT_FOUND, ending=Ending.FAIL)
    story.read((9, 10), None)
    return story


def a_grant_whose_answer_took_longer_than_the_pause_that_followed_it() -> Story:
    story = one_task_submitted()
    story.claim((1, 6), "w1", 7)
    story.pause((2, 3), paused=True)
    story.read((4, 5), RUNNING, {7: HELD}, queue="q")
    return story


def a_report_that_a_broker_passed_on_twice() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ALREADY_RECORDED)
    story.read((5, 6), COMPLETED, {7: DONE})
    return story


def a_grant_that_nobody_saw_and_the_leader_took_back() -> Story:
    story = one_task_submitted()
    story.claim((1, None), "w1", 7)
    story.claim((2, 3), "w1", 8)
    story.read((4, 5), RUNNING, {7: RELEASED, 8: HELD})
    return story


def a_claim_passed_on_twice_that_was_told_only_what_it_lost() -> Story:
    story = one_task_submitted()
    story.claim_of_what_is_lost((1, 3), "w1")
    story.claim((2, 4), "w1", 8)
    story.read((5, 6), RUNNING, {7: RELEASED, 8: HELD})
    return story


def a_repeated_failure_whose_first_sending_met_a_cancel() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.report((5, None), "w1", 7, ending=Ending.FAIL)
    story.report((6, 7), "w1", 7, ALREADY_RECORDED, ending=Ending.FAIL, state=CANCELLED)
    story.read((8, 9), CANCELLED, {7: STOPPED})
    return story


def a_redrive_of_the_queue_that_met_the_task_only_just() -> Story:
    story = one_task_submitted()
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


@pytest.mark.slow
def test_a_long_history_with_many_unanswered_calls_is_judged_at_once() -> None:
    story = one_task_submitted()
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
