"""Histories that no order of a task's calls explains, and such as are wrong in time or in sum."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.history import linearizability
from chaos.history.calls import Ending
from chaos.history.facts import Facts
from chaos.history.orders import contradiction
from chaos.history.verdict import check
from tests.kill.story import (
    ALREADY_RECORDED,
    CANCELLED,
    COMPLETED,
    DONE,
    EXPIRED,
    FAILED,
    HELD,
    LEASE_LOST,
    LEFT_OFF,
    PENDING,
    RECORDED,
    RELEASED,
    RETRYING,
    RUNNING,
    Story,
    one_dead_letter,
    one_task_done,
    one_task_submitted,
)


def an_acknowledged_cancel_that_a_read_does_not_show() -> Story:
    story = one_task_submitted()
    story.cancel((2, 3), CANCELLED)
    story.read((4, 5), PENDING)
    return story


def a_cancelled_task_that_is_claimed() -> Story:
    story = one_task_submitted()
    story.cancel((2, 3), CANCELLED)
    story.claim((4, 5), "w1", 7)
    return story


def a_task_cancelled_by_nobody() -> Story:
    story = one_task_submitted()
    story.read((2, 3), CANCELLED)
    return story


def a_cancel_that_hits_a_completed_task() -> Story:
    story = one_task_done()
    story.cancel((10, 11), CANCELLED)
    return story


def a_mark_that_the_next_heartbeat_does_not_carry() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.heartbeat((5, 6), "w1", 7)
    return story


def a_repeated_cancel_that_is_carried_out_twice() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.cancel((3, 4), RUNNING)
    story.report((5, 6), "w1", 7, RECORDED)
    story.cancel((7, 8), CANCELLED)
    return story


def a_redrive_of_what_is_no_dead_letter() -> Story:
    story = one_task_submitted()
    story.redrive((2, 3), 1)
    return story


def a_redrive_that_a_dead_letter_was_denied() -> Story:
    story = one_dead_letter()
    story.redrive((5, 6), 0)
    return story


def a_redrive_carried_out_twice_under_one_request() -> Story:
    story = one_dead_letter()
    story.redrive((5, 6), 1)
    story.claim((6, 7), "w1", 8)
    story.report((8, 9), "w1", 8, ending=Ending.FAIL, state=FAILED)
    story.redrive((10, 11), 1)
    story.read((12, 13), PENDING, {7: LEFT_OFF, 8: LEFT_OFF}, redrives=2)
    return story


def a_redrive_that_lost_the_history() -> Story:
    story = one_dead_letter()
    story.redrive((5, 6), 1)
    story.read((7, 8), PENDING, redrives=1)
    return story


def a_deleted_task_that_comes_back() -> Story:
    story = one_dead_letter()
    story.delete((5, 6), 1)
    story.read((7, 8), None)
    story.read((9, 10), FAILED, {7: LEFT_OFF})
    return story


def a_task_that_is_gone_without_a_deletion() -> Story:
    story = one_dead_letter()
    story.delete((5, 6), 0, request="x")
    story.read((7, 8), None)
    return story


def a_read_that_forgets_an_expired_attempt() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7, lease_s=3)
    story.claim((6, 7), "w2", 8)
    story.read((8, 9), RUNNING, {8: HELD})
    return story


def an_already_recorded_that_was_never_recorded() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ALREADY_RECORDED)
    story.read((5, 6), RUNNING, {7: HELD})
    return story


def a_lease_called_lost_while_it_lives() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, LEASE_LOST)
    story.read((5, 6), RUNNING, {7: HELD})
    return story


def a_release_counted_as_a_failure() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ending=Ending.RELEASE, state=RETRYING)
    return story


def a_release_for_a_while_that_is_over_at_once() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ending=Ending.PAUSE, state=PENDING)
    return story


def a_result_that_changes_after_it_was_read() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, None), "w1", 7, result=b"one")
    story.report((3, None), "w1", 7, result=b"two")
    story.read((5, 6), COMPLETED, {7: DONE}, result=b"one")
    story.read((7, 8), COMPLETED, {7: DONE}, result=b"two")
    return story


def a_lease_that_nobody_asked_for() -> Story:
    story = one_task_submitted()
    story.read((3, 4), RUNNING, {7: HELD})
    return story


def a_release_that_nobody_reported() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.read((4, 5), PENDING, {7: RELEASED})
    return story


def a_purge_that_hits_a_task_of_another_queue() -> Story:
    story = one_task_submitted()
    story.purge((2, 3), 1, queue="other")
    story.read((4, 5), CANCELLED, queue="q")
    return story


def a_lease_that_expires_before_its_time() -> Story:
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7, lease_s=10)
    story.heartbeat((3, 4), "w1", 7, lease_s=10)
    story.read((8, 9), RETRYING, {7: EXPIRED})
    return story


def a_grant_while_the_queue_is_paused() -> Story:
    story = one_task_submitted()
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
    story = one_task_submitted()
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
    (
        a_release_for_a_while_that_is_over_at_once,
        "contradicts the release for a while with token 7",
    ),
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
