"""Those who wait for a task to finish."""

from __future__ import annotations

from tq_cluster.leader.waiters import Waiters


async def test_what_happens_between_the_look_and_the_wait_is_not_missed() -> None:
    waiters: Waiters[str] = Waiters()
    with waiters.join("mail") as waiter, waiters.join("video") as other:
        waiters.wake_all("mail")
        assert await waiter.wait(0.001)
        assert not await waiter.wait(0.001)
        assert not other.woken


def test_nothing_is_left_behind_by_those_who_stop_waiting() -> None:
    waiters: Waiters[str] = Waiters()
    with waiters.join("mail"), waiters.join("mail"):
        assert len(waiters) == 2
    assert len(waiters) == 0
    waiters.wake_all("mail")
