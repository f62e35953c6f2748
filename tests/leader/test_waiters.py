"""Long polls."""

from __future__ import annotations

from tq_cluster.leader.waiters import Waiters


def test_the_first_to_wait_is_the_first_to_be_woken() -> None:
    waiters: Waiters[str] = Waiters()
    with waiters.join(["mail"]) as first, waiters.join(["mail"]) as second:
        waiters.wake("mail", 1)
        assert (first.woken, second.woken) == (True, False)
        waiters.wake("mail", 1)
        assert second.woken


async def test_what_happens_between_the_look_and_the_wait_is_not_missed() -> None:
    waiters: Waiters[str] = Waiters()
    with waiters.join(["mail", "video"]) as waiter:
        waiters.wake("video", 1)
        assert await waiter.wait(0.001)
        assert not await waiter.wait(0.001)


def test_nothing_is_left_behind_by_those_who_stop_waiting() -> None:
    waiters: Waiters[str] = Waiters()
    with waiters.join(["mail", "mail", "video"]):
        assert len(waiters) == 1
    assert len(waiters) == 0
    waiters.wake("mail", 1)


def test_who_leaves_without_looking_passes_the_wake_on() -> None:
    waiters: Waiters[str] = Waiters()
    with waiters.join(["mail"]) as patient:
        with waiters.join(["mail"]):
            waiters.wake("mail", 2)
            patient._woken.clear()  # it has looked, and found nothing yet
        assert patient.woken


def test_one_who_may_find_nothing_is_woken_besides_the_others_and_not_in_their_place() -> None:
    waiters: Waiters[str] = Waiters()
    with (
        waiters.join(["mail"], picky=True) as picky,
        waiters.join(["mail"]) as first,
        waiters.join(["mail"]) as second,
    ):
        waiters.wake("mail", 1)
        assert (picky.woken, first.woken, second.woken) == (True, True, False)
