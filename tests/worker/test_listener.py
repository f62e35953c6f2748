"""What a handler process hears from its parent, and what it does when it hears nothing."""

from __future__ import annotations

import socket

import pytest

from tq.internal.v1.worker_child_pb2 import Renewal, ToHandlers
from tq.v1.worker_service_pb2 import ClaimedTask
from tq_common.clock import boottime_s
from tq_worker.api.context import TaskContext
from tq_worker.child.__main__ import Listener
from tq_worker.child.runner import Attempt
from tq_worker.wire import exits
from tq_worker.wire.frames import encode


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


class ExitedError(Exception):
    """The process would have ended, with this code."""


@pytest.fixture
def _ends_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise ExitedError(code)

    monkeypatch.setattr("tq_worker.child.__main__.os._exit", leave)


class Endless:
    """A poll on a parent that never stops talking: each look finds one more message."""

    def __init__(self, theirs: socket.socket, message: ToHandlers) -> None:
        self._theirs = theirs
        self._frame = encode(message)
        self.looks = 0

    def register(self, connection: socket.socket, events: int) -> None: ...

    def poll(self, patience_ms: int | None) -> list[tuple[int, int]]:
        self.looks += 1
        if self.looks > 100:
            raise ExitedError(0)
        self._theirs.sendall(self._frame)
        return [(0, 0)]


@pytest.mark.parametrize(("renewed", "code"), [(False, exits.LEASE_OVER), (True, 0)])
@pytest.mark.usefixtures("_ends_are_noticed")
def test_a_parent_that_never_stops_talking_of_other_things_does_not_keep_a_lease_alive(
    monkeypatch: pytest.MonkeyPatch, *, renewed: bool, code: int
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        listener = Listener(ours)
        running = held(1, left_s=-0.001)
        running.context = TaskContext(running.claimed, running.lease_until_s)
        listener._attempts = {1: running}
        until_ns = round((boottime_s() + 60) * 1e9)
        if renewed:  # it stands in the pipe, behind nothing that matters
            renewal = Renewal(tokens=[1], lease_until_ns=until_ns)
            theirs.sendall(encode(ToHandlers(renewals=[renewal])))
        other = ToHandlers(renewals=[Renewal(tokens=[2], lease_until_ns=until_ns)])
        endless = Endless(theirs, other)
        monkeypatch.setattr("tq_worker.child.__main__.select.poll", lambda: endless)

        with pytest.raises(ExitedError) as ended:
            # What it would obey is not looked at: only renewals are said.
            listener.listen(None, None)  # type: ignore[arg-type]

    # `listen` ends the process on any exception that it does not know; the first one counts.
    first = ended.value.__context__ or ended.value
    assert isinstance(first, ExitedError)
    assert first.args == (code,)
