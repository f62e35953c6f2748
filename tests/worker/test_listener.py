"""What a handler process hears from its parent, and what it does when it hears nothing."""

from __future__ import annotations

import socket

from tq.v1.worker_service_pb2 import ClaimedTask
from tq_worker.child import Listener
from tq_worker.clock import boottime_s
from tq_worker.context import TaskContext
from tq_worker.runner import Attempt


def held(token: int, left_s: float) -> Attempt:
    """An attempt whose process must end it in ``left_s``."""
    claimed = ClaimedTask(token=token)
    return Attempt(claimed, boottime_s() + left_s)


def test_a_handler_whose_lease_ended_while_the_parent_spoke_is_not_given_another_second() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        listener = Listener(ours)
        running = held(1, left_s=-0.001)
        running.context = TaskContext(running.claimed, running.lease_until_s)
        listener._attempts = {1: running, 2: held(2, left_s=30.0)}

        assert listener._patience_ms() == 0


def test_a_task_that_was_not_started_in_time_is_not_watched() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        listener = Listener(ours)
        listener._attempts = {1: held(1, left_s=-5.0)}

        assert listener._patience_ms() == 1_000
