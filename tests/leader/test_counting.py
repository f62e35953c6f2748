"""Every move that a task may make is counted as one event, or as none."""

from __future__ import annotations

from tq_cluster.core.model import states
from tq_cluster.leader.counting import _event

NO_EVENT = {
    (before, after)
    for before, afters in states.TRANSITIONS.items()
    for after in afters
    if before in states.WAITING and after in states.WAITING
}
"""A task that comes closer to its turn."""


def test_each_move_of_a_task_is_an_event_or_only_brings_it_closer_to_its_turn() -> None:
    moves = {(before, after) for before, afters in states.TRANSITIONS.items() for after in afters}
    events = {move: _event(*move) for move in moves}

    assert {move for move, event in events.items() if event is None} == NO_EVENT
    assert events[states.RUNNING, states.PENDING] == "released"
    assert events[states.FAILED, states.BLOCKED] == events[states.FAILED, states.PENDING]
    assert events[states.FAILED, states.BLOCKED] == "redriven"
    assert {_event(states.NONE, state) for state in states.WAITING} == {"submitted"}
