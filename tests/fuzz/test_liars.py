"""A member that says anything at all: this node may stop, and never takes up what cannot be."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.liars import lie
from tests.simulation.world.puppet import Puppet, Stage, append, on_stage
from tq.internal.v1 import peer_pb2
from tq_cluster.errors import FatalError
from tq_common.limits import TERM_STEP_MAX

HISTORIES = 60
LIES = 25


@pytest.mark.slow
@pytest.mark.parametrize("leads", [False, True], ids=["to a follower", "to a leader"])
def test_whatever_a_member_says_no_error_is_met_but_those_that_stop_a_node(leads: bool) -> None:
    stopped = sum(
        _history(random.Random(f"{leads} {seed}"), leads=leads) for seed in range(HISTORIES)
    )

    assert stopped < HISTORIES, "most of what is said is refused"


def _history(draw: random.Random, *, leads: bool) -> bool:
    """Tell a node lies; whether that stopped it."""

    async def scenario(stage: Stage) -> bool:
        if leads:
            await stage.elect("n3")
            stage.puppets["n3"].say(append_reply=_ack(stage))
        else:
            message = append(1, (1, 0), [(1, b"one"), (1, b"two")], commit_index=2)
            stage.puppets["n1"].say(append=message)
        await stage.until("it is applied", lambda: stage.host.machine.applied.index == 2)
        committed = stage.host.machine.entries[:2]
        told = 0
        while told < LIES and stage.host.up:
            liar = Puppet(stage, "n1")
            stage.dial(liar)
            await stage.until("it is connected", lambda liar=liar: liar.connected)  # type: ignore[misc]  # a default's type
            while liar.connected and told < LIES and stage.host.up:
                liar.say(**lie(draw, stage.host.replica.status()))
                told += 1
                await stage.pass_time(0.002)
        if not stage.host.up:
            assert isinstance(stage.deaths[0], FatalError)
            return True
        assert stage.host.machine.entries[:2] == committed
        assert stage.host.journal.getCurrentTerm() <= 1 + LIES * TERM_STEP_MAX
        return False

    return on_stage(scenario)


def _ack(stage: Stage) -> peer_pb2.AppendReply:
    term = stage.host.replica.status().term
    return peer_pb2.AppendReply(term=term, accepted=True, next_index=3, last_index=2)
