"""The door: proposing, confirming, being told; and what ends the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.puppet import Puppet, Stage, append, on_stage
from tq.internal.v1 import peer_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import (
    FatalError,
    NotAppliedError,
    NotLeaderError,
    OutcomeUnknownError,
    StartError,
    StateDiffersError,
)
from tq_cluster.raft import pysyncobj_core
from tq_cluster.raft.log_api import LogStatus, Role
from tq_cluster.raft.pysyncobj_core import NO_OP


def quiet(cluster: Cluster) -> None:
    cluster.load.on = False


# ---------------------------------------------------------------------- proposing


def test_one_entry_is_in_flight_and_only_a_fully_applied_log_is_decided_over() -> None:
    async def scenario(cluster: Cluster) -> None:
        quiet(cluster)
        await cluster.start()
        leader = await cluster.await_leader()
        base = leader.replica.decidable()
        assert base == leader.machine.applied
        assert base is not None

        first = leader.replica.propose(b"first", base)

        assert leader.replica.decidable() is None
        with pytest.raises(NotLeaderError):
            await leader.replica.propose(b"second", base)
        await first
        assert leader.replica.decidable() == AppliedAt(base.index + 1, base.term)
        with pytest.raises(NotLeaderError):
            await leader.replica.propose(b"over an old base", base)

    simulate(scenario, seed="one in flight")


def test_who_waits_to_decide_is_called_each_time_it_becomes_possible() -> None:
    async def scenario(cluster: Cluster) -> None:
        quiet(cluster)
        await cluster.start()
        leader = await cluster.await_leader()
        calls: list[AppliedAt | None] = []
        leader.replica.on_decidable(lambda: calls.append(leader.replica.decidable()))

        indexes = [await cluster.put(b"entry %d" % number) for number in range(5)]

        await cluster.until("the last call", lambda: len(calls) == 5)
        assert [call.index for call in calls if call] == indexes

    simulate(scenario, seed="called")


def test_who_waits_for_entries_hears_how_far_the_state_is_on_every_node() -> None:
    async def scenario(cluster: Cluster) -> None:
        quiet(cluster)
        await cluster.start()
        await cluster.await_leader()
        heard: dict[str, list[int]] = {}
        for node in cluster.hosts.values():
            node.replica.on_applied(heard.setdefault(node.name, []).append)

        last = [await cluster.put(b"entry %d" % number) for number in range(5)][-1]

        await cluster.until("all hear", lambda: all(last in told for told in heard.values()))
        assert all(told == sorted(set(told)) for told in heard.values())

    simulate(scenario, seed="applied")


def test_an_entry_in_flight_when_leadership_ends_has_an_unknown_outcome() -> None:
    async def scenario(stage: Stage) -> None:
        await stage.elect("n3")
        await _confirm_no_op(stage)
        await stage.propose(b"in flight")

        stage.puppets["n3"].say(term_notice=peer_pb2.TermNotice(term=9))

        with pytest.raises(OutcomeUnknownError):
            await stage.proposed[0]
        assert stage.host.replica.status().role is Role.FOLLOWER

    on_stage(scenario)


def test_an_entry_that_takes_no_effect_is_reported_as_not_applied() -> None:
    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        await _confirm_no_op(stage)
        apply = stage.host.machine.apply
        stage.host.machine.apply = lambda *entry: apply(*entry) and False  # type: ignore[method-assign]  # its header forbids it
        index = await stage.propose(b"for another base")
        stage.puppets["n3"].say(append_reply=_ack(term, index + 1))

        with pytest.raises(NotAppliedError):
            await stage.proposed[0]

    on_stage(scenario)


@pytest.mark.parametrize("entry", [b"", NO_OP])
def test_what_is_no_entry_is_not_taken(entry: bytes) -> None:
    async def scenario(cluster: Cluster) -> None:
        quiet(cluster)
        await cluster.start()
        leader = await cluster.await_leader()
        base = leader.replica.decidable()
        assert base is not None
        with pytest.raises(ValueError, match="serialized Entry"):
            await leader.replica.propose(entry, base)

    simulate(scenario, seed="no entry")


def test_an_entry_is_applied_only_once_this_node_has_it_on_disk() -> None:
    """A majority without this node may have committed it: here it could still be lost."""

    async def scenario(stage: Stage) -> None:
        stage.host.syncer.delay_s = (0.100, 0.100)
        stage.puppets["n1"].say(append=append(1, (1, 0), [(1, b"entry")], commit_index=2))
        await stage.pass_time(0.080)
        assert stage.host.replica.status().commit_index == 2
        assert stage.host.machine.applied.index == 1

        await stage.until("it is applied", lambda: stage.host.machine.applied.index == 2)

        assert stage.host.journal.durable_last_index() == 2

    on_stage(scenario)


def test_an_ack_leaves_after_fsync_and_an_echo_before() -> None:
    async def scenario(stage: Stage) -> None:
        stage.host.syncer.delay_s = (0.100, 0.100)
        leader = stage.puppets["n1"]
        message = append(1, (1, 0), [(1, b"entry")])
        message.echo_now = True
        leader.say(append=message)
        began_s = stage.loop.time()

        assert (await leader.hears("echo")).echo.round == message.round
        assert stage.loop.time() - began_s < 0.020
        await leader.hears("append_reply")
        assert stage.loop.time() - began_s > 0.095

    on_stage(scenario)


def test_an_answer_held_for_a_connection_leaves_on_no_other() -> None:
    async def scenario(stage: Stage) -> None:
        stage.host.syncer.delay_s = (0.100, 0.100)
        stage.puppets["n1"].say(append=append(1, (1, 0), [(1, b"entry")]))
        await stage.until("it has come", lambda: stage.host.journal.last_index == 2)
        again = Puppet(stage, "n1")
        stage.dial(again)
        await again.hears("hello")

        await stage.until("it is on disk", lambda: stage.host.journal.durable_last_index() == 2)
        await stage.pass_time(0.05)

        assert again.replies() == []

    on_stage(scenario)


# ---------------------------------------------------------------------- confirming


def test_all_who_ask_at_once_share_one_round() -> None:
    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        await _confirm_no_op(stage)
        await stage.pass_time(0.01)
        follower = stage.puppets["n3"]
        follower.heard.clear()

        asked = [stage.host.replica.confirm() for _ in range(100)]
        probe = (await follower.hears("probe")).probe
        follower.say(echo=peer_pb2.Echo(term=term, round=probe.round))

        assert {answer.index for answer in await asyncio.gather(*asked)} == {2}
        assert not any(message.HasField("probe") for message in follower.heard)

    on_stage(scenario)


def test_the_next_append_serves_as_the_round() -> None:
    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        await _confirm_no_op(stage)
        await stage.pass_time(0.01)
        follower = stage.puppets["n3"]
        follower.heard.clear()
        base = stage.host.replica.decidable()
        assert base is not None

        asked = stage.host.replica.confirm()
        stage.proposed.append(stage.host.replica.propose(b"entry", base))
        message = (await follower.hears("append")).append
        assert message.echo_now
        follower.say(echo=peer_pb2.Echo(term=term, round=message.round))

        assert (await asked).index == 2
        assert not any(message.HasField("probe") for message in follower.heard)

    on_stage(scenario)


def test_an_echo_of_another_term_confirms_nothing() -> None:
    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        await _confirm_no_op(stage)
        asked = stage.host.replica.confirm()
        probe = (await stage.puppets["n3"].hears("probe")).probe

        stage.puppets["n3"].say(echo=peer_pb2.Echo(term=term + 1, round=probe.round))
        stage.puppets["n3"].say(echo=peer_pb2.Echo(term=term - 1, round=probe.round))
        await stage.pass_time(0.02)

        assert not asked.done()
        stage.puppets["n3"].say(echo=peer_pb2.Echo(term=term, round=probe.round))
        await asked

    on_stage(scenario)


def test_nothing_is_confirmed_before_the_terms_no_op_is_applied() -> None:
    """Else a new leader would answer without what its predecessor had acknowledged."""

    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        asked = stage.host.replica.confirm()
        probe = (await stage.puppets["n3"].hears("probe")).probe
        stage.puppets["n3"].say(echo=peer_pb2.Echo(term=term, round=probe.round))
        await stage.pass_time(0.02)
        assert not asked.done()

        stage.puppets["n3"].say(append_reply=_ack(term, 3))

        assert (await asked).index == 2

    on_stage(scenario)


def test_only_what_was_sent_since_a_mark_shows_that_this_node_has_led_since() -> None:
    """Answers that were under way prove nothing: another node may lead since they were sent."""

    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        await _confirm_no_op(stage)
        replica, follower = stage.host.replica, stage.puppets["n3"]
        before = replica.mark()
        first = await _append(stage, b"first")
        marked = replica.mark()
        assert not replica.led_since(before)

        follower.say(append_reply=_ack(term, 4, first.round))
        await stage.proposed[-1]
        assert replica.led_since(before)
        assert not replica.led_since(marked), (
            "it was sent before the mark, and its entry is applied"
        )

        second = await _append(stage, b"second")
        follower.say(append_reply=_ack(term, 5, second.round))
        await stage.proposed[-1]
        assert replica.led_since(marked)
        assert not replica.led_since(replica.mark())

    on_stage(scenario)


def test_no_mark_holds_before_the_terms_no_op_is_applied() -> None:
    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        marked = stage.host.replica.mark()
        asked = stage.host.replica.confirm()
        probe = (await stage.puppets["n3"].hears("probe")).probe
        stage.puppets["n3"].say(echo=peer_pb2.Echo(term=term, round=probe.round))
        await stage.pass_time(0.02)
        assert not stage.host.replica.led_since(marked)

        stage.puppets["n3"].say(append_reply=_ack(term, 3))

        await asked
        assert stage.host.replica.led_since(marked)

    on_stage(scenario)


# ---------------------------------------------------------------------- being told


def test_changes_of_role_term_and_leader_are_told() -> None:
    async def scenario(cluster: Cluster) -> None:
        quiet(cluster)
        seen: dict[str, list[LogStatus]] = {name: [] for name in cluster.hosts}
        for name, host in cluster.hosts.items():
            host.on_start.append(
                lambda host, name=name: host.replica.on_role_change(seen[name].append)  # type: ignore[misc]
            )
        await cluster.start()
        leader = await cluster.await_leader()
        await asyncio.sleep(0.2)

        for name, statuses in seen.items():
            assert statuses[0].role is Role.FORMING
            assert statuses[-1].leader_id == leader.name
            assert (statuses[-1].role is Role.LEADER) == (name == leader.name)

    simulate(scenario, seed="told")


def test_a_leader_out_of_reach_is_nobodys_leader() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(1, (1, 0), []))
        await stage.until("it follows", lambda: stage.host.replica.status().leader_id == "n1")
        stage.network.break_links("n1", "n2")

        await stage.until("it knows of none", lambda: stage.host.replica.status().leader_id is None)

    on_stage(scenario)


# ---------------------------------------------------------------------- what ends the process


def _replaces_committed(stage: Stage) -> None:
    stage.puppets["n3"].say(append=append(5, (1, 0), [(5, b"another")]))


def _contradicts_committed(stage: Stage) -> None:
    stage.puppets["n3"].say(append=append(5, (2, 4), [(5, b"more")]))


def _misses_what_was_acknowledged(stage: Stage) -> None:
    stop = peer_pb2.Stop(message="this disk went back", acknowledged_index=3)
    stage.puppets["n1"].say(stop=stop)


@pytest.mark.parametrize(
    ("provoke", "said"),
    [
        (_replaces_committed, "would replace entry 2"),
        (_contradicts_committed, "contradicts entry 2"),
        (_misses_what_was_acknowledged, "told to stop by n1: this disk went back"),
    ],
)
def test_a_contradiction_ends_the_process(provoke: Callable[[Stage], None], said: str) -> None:
    async def scenario(stage: Stage) -> None:
        message = append(1, (1, 0), [(1, b"committed")], commit_index=2)
        stage.puppets["n1"].say(append=message)
        await stage.until("it is applied", lambda: stage.host.machine.applied.index == 2)

        provoke(stage)

        await stage.until("it has ended", lambda: bool(stage.deaths))
        assert isinstance(stage.deaths[0], FatalError)
        assert said in str(stage.deaths[0])

    on_stage(scenario)


@pytest.mark.parametrize(
    ("name", "acknowledged_index"),
    [
        pytest.param("n3", 3, id="from one that does not lead"),
        pytest.param("n1", 2, id="for an entry that is here"),
    ],
)
def test_a_node_does_not_stop_for_what_it_can_see_is_untrue(
    name: str, acknowledged_index: int
) -> None:
    async def scenario(stage: Stage) -> None:
        message = append(1, (1, 0), [(1, b"committed")], commit_index=2)
        stage.puppets["n1"].say(append=message)
        await stage.until("it is applied", lambda: stage.host.machine.applied.index == 2)

        stop = peer_pb2.Stop(message="this disk went back", acknowledged_index=acknowledged_index)
        stage.puppets[name].say(stop=stop)
        stage.puppets["n1"].say(append=append(1, (2, 1), [(1, b"and on")], commit_index=3))

        await stage.until("it goes on", lambda: stage.host.machine.applied.index == 3)
        assert not stage.deaths

    on_stage(scenario)


def test_a_node_sets_its_state_aside_only_for_what_a_majority_told_it_itself() -> None:
    async def scenario(stage: Stage) -> None:
        accuser, third = stage.puppets["n1"], stage.puppets["n3"]
        replica = stage.host.replica
        accused = peer_pb2.Stop(message="yours differs", state_differs=True)
        replica.share_hash(2, b"ours")
        accuser.say(range_hash=peer_pb2.RangeHash(index=2, digest=b"another"))
        accuser.say(stop=accused)
        # It agrees with this node: the accuser is alone.
        third.say(range_hash=peer_pb2.RangeHash(index=2, digest=b"ours"))
        accuser.say(append=append(1, (1, 0), [(1, b"and on")], commit_index=2))
        await stage.until("it goes on", lambda: stage.host.machine.applied.index == 2)
        assert not stage.deaths

        replica.share_hash(5, b"ours")
        for puppet in (accuser, third):
            puppet.say(range_hash=peer_pb2.RangeHash(index=5, digest=b"another"))

        await stage.until("it has ended", lambda: bool(stage.deaths))
        assert isinstance(stage.deaths[0], StateDiffersError)
        assert "told to stop by n1: yours differs" in str(stage.deaths[0])

    on_stage(scenario)


def test_a_peer_whose_disk_went_back_is_told_to_stop() -> None:
    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        follower = stage.puppets["n3"]
        follower.say(append_reply=_ack(term, 3))
        await stage.until("it is committed", lambda: stage.host.machine.applied.index == 2)

        follower.say(
            append_reply=peer_pb2.AppendReply(term=term, accepted=False, next_index=2, last_index=1)
        )

        stop = (await follower.hears("stop")).stop
        assert "this disk ends at entry 1, but entry 2 was acknowledged from it" in stop.message
        assert stop.acknowledged_index == 2

    on_stage(scenario)


def test_another_pysyncobj_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysyncobj_core, "SYNCOBJ_SHA256", "0" * 64)
    with pytest.raises(StartError, match=r"reinstall pysyncobj==0\.3\.17"):
        pysyncobj_core.check_syncobj()


async def _confirm_no_op(stage: Stage) -> None:
    """Let the new leader commit the entry that begins its leadership."""
    term = stage.host.replica.status().term
    last = stage.host.journal.last_index
    stage.puppets["n3"].say(append_reply=_ack(term, last + 1))
    await stage.until("it can decide", lambda: stage.host.replica.decidable() is not None)


async def _append(stage: Stage, entry: bytes) -> peer_pb2.Append:
    """Propose an entry; return the message that brings it to a follower."""
    base = stage.host.replica.decidable()
    assert base is not None
    stage.puppets["n3"].heard.clear()
    stage.proposed.append(stage.host.replica.propose(entry, base))
    return (await stage.puppets["n3"].hears("append")).append


def _ack(term: int, next_index: int, number: int = 0) -> peer_pb2.AppendReply:
    return peer_pb2.AppendReply(
        term=term,
        accepted=True,
        next_index=next_index,
        last_index=next_index - 1,
        round=number,
    )
