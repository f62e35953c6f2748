"""Who leads, how soon after the last one is gone, and who may not unseat whom."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.puppet import Puppet, Stage, append, on_stage
from tq.internal.v1 import peer_pb2
from tq_cluster.errors import NotLeaderError
from tq_cluster.raft import frames
from tq_cluster.raft.log_api import Role


def _request(term: int, last_index: int, last_term: int) -> peer_pb2.PreVoteRequest:
    return peer_pb2.PreVoteRequest(attempt=1, term=term, last_index=last_index, last_term=last_term)


# ---------------------------------------------------------------------- how soon


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_leader_is_replaced_in_a_fraction_of_a_second(seed: int) -> None:
    async def scenario(cluster: Cluster) -> float:
        await cluster.start()
        dead = await cluster.await_leader()
        await asyncio.sleep(0.5)
        began_s = cluster.loop.time()
        dead.kill()
        await cluster.await_leader()
        return cluster.loop.time() - began_s

    assert simulate(scenario, seed=f"killed {seed}") < 0.4


@pytest.mark.parametrize("seed", range(10))
def test_a_leader_that_falls_silent_is_replaced_within_about_a_second(seed: int) -> None:
    async def scenario(cluster: Cluster) -> float:
        await cluster.start()
        silent = await cluster.await_leader()
        await asyncio.sleep(0.5)
        began_s = cluster.loop.time()
        silent.pause()
        await cluster.until("another leads", lambda: cluster.leader() not in {None, silent})
        return cluster.loop.time() - began_s

    assert simulate(scenario, seed=f"silent {seed}") < 1.3


def test_elections_do_not_collide_for_long_among_five() -> None:
    async def scenario(cluster: Cluster) -> float:
        await cluster.start()
        worst_s = 0.0
        for _ in range(10):
            dead = await cluster.await_leader()
            began_s = cluster.loop.time()
            dead.kill()
            await cluster.await_leader()
            worst_s = max(worst_s, cluster.loop.time() - began_s)
            await dead.start()
            await asyncio.sleep(1.0)
        return worst_s

    assert simulate(scenario, seed="five", size=5) < 1.0


# ---------------------------------------------------------------------- who may


def test_a_node_that_hears_its_leader_grants_no_pre_vote() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(1, (1, 0), []))
        await stage.puppets["n1"].hears("append_reply")

        stage.puppets["n3"].say(pre_vote_request=_request(2, 1, 0))

        reply = (await stage.puppets["n3"].hears("pre_vote_reply")).pre_vote_reply
        assert not reply.granted

    on_stage(scenario)


def test_a_node_whose_own_connection_to_the_leader_is_down_grants_at_once() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(1, (1, 0), []))
        await stage.puppets["n1"].hears("append_reply")
        stage.network.break_links("n1", "n2")
        await stage.until(
            "it has noticed", lambda: not stage.host.replica.status().peers["n1"].connected
        )

        stage.puppets["n3"].say(pre_vote_request=_request(2, 1, 0))

        reply = (await stage.puppets["n3"].hears("pre_vote_reply")).pre_vote_reply
        assert reply.granted

    on_stage(scenario)


def test_a_node_that_lacks_entries_is_granted_nothing() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(3, (1, 0), [(3, b"entry")]))
        await stage.puppets["n1"].hears("append_reply")
        stage.network.break_links("n1", "n2")
        await stage.until(
            "it has noticed", lambda: not stage.host.replica.status().peers["n1"].connected
        )

        stage.puppets["n3"].say(pre_vote_request=_request(4, 5, 2))
        assert not (await stage.puppets["n3"].hears("pre_vote_reply")).pre_vote_reply.granted

        stage.puppets["n3"].say(
            vote_request=peer_pb2.VoteRequest(term=4, last_index=5, last_term=2)
        )
        reply = (await stage.puppets["n3"].hears("vote_reply")).vote_reply
        assert not reply.granted
        assert reply.term == 4

    on_stage(scenario)


@pytest.mark.parametrize(("rival", "granted"), [("n1", False), ("n3", True)])
def test_of_two_attempts_at_once_only_the_lower_gives_way(rival: str, *, granted: bool) -> None:
    async def scenario(stage: Stage) -> None:
        request = (await stage.puppets[rival].hears("pre_vote_request")).pre_vote_request

        stage.puppets[rival].say(pre_vote_request=request)

        reply = (await stage.puppets[rival].hears("pre_vote_reply")).pre_vote_reply
        assert reply.granted is granted

    on_stage(scenario)


def test_a_refused_attempt_is_repeated_soon() -> None:
    async def scenario(stage: Stage) -> None:
        puppets = stage.puppets.values()
        requests = [(await puppet.hears("pre_vote_request")).pre_vote_request for puppet in puppets]
        refused_s = stage.loop.time()
        for puppet, request in zip(puppets, requests, strict=True):
            puppet.say(pre_vote_reply=peer_pb2.PreVoteReply(attempt=request.attempt, granted=False))

        await stage.puppets["n1"].hears("pre_vote_request")

        assert stage.loop.time() - refused_s < 0.13
        assert stage.host.replica.status().term == 0, "asking changes no term"

    on_stage(scenario)


def test_a_lost_election_is_followed_soon_by_the_next_attempt() -> None:
    async def scenario(stage: Stage) -> None:
        puppets = stage.puppets.values()
        for puppet in puppets:
            request = (await puppet.hears("pre_vote_request")).pre_vote_request
            reply = peer_pb2.PreVoteReply(attempt=request.attempt, granted=True)
            puppet.say(pre_vote_reply=reply)
        for puppet in puppets:
            await puppet.hears("vote_request")
        lost_s = stage.loop.time()
        for puppet in puppets:
            puppet.say(vote_reply=peer_pb2.VoteReply(term=1, granted=False))

        await stage.puppets["n1"].hears("pre_vote_request")

        assert stage.loop.time() - lost_s < 0.13

    on_stage(scenario)


def test_nodes_that_all_start_at_once_have_a_leader_soon() -> None:
    async def scenario(cluster: Cluster) -> float:
        await cluster.start()
        await cluster.await_leader()
        for host in cluster.hosts.values():
            host.kill()
        began_s = cluster.loop.time()
        for host in cluster.hosts.values():
            await host.start()
        await cluster.await_leader()
        return cluster.loop.time() - began_s

    assert simulate(scenario, seed="all at once") < 0.35


def test_a_large_entry_on_its_way_is_a_sign_of_life() -> None:
    """Of the leader: pieces of an entry come, and no whole message for seconds."""

    async def scenario(stage: Stage) -> None:
        leader = stage.puppets["n1"]
        pieces = frames.encode(
            peer_pb2.PeerMessage(append=append(1, (1, 0), [(1, b"e" * 2_000_000)]))
        )
        leader.say(append=append(1, (1, 0), []))
        for piece in pieces:
            assert leader._transport is not None
            leader._transport.write(piece)
            await stage.pass_time(0.25)
            stage.puppets["n3"].say(pre_vote_request=_request(2, 1, 0))
            reply = (await stage.puppets["n3"].hears("pre_vote_reply")).pre_vote_reply
            assert not reply.granted

        assert stage.host.replica.status().leader_id == "n1"
        assert not any(message.HasField("pre_vote_request") for message in leader.heard)

    on_stage(scenario)


def test_a_stale_leader_is_told_of_the_higher_term() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n3"].say(append=append(5, (1, 0), []))
        await stage.puppets["n3"].hears("append_reply")

        stage.puppets["n1"].say(append=append(4, (1, 0), [(4, b"stale")]))

        assert (await stage.puppets["n1"].hears("term_notice")).term_notice.term == 5
        assert stage.host.journal.last_index == 1

    on_stage(scenario)


def test_a_vote_leaves_after_it_is_on_disk() -> None:
    async def scenario(stage: Stage) -> None:
        stage.host.syncer.delay_s = (0.050, 0.050)
        asked_s = stage.loop.time()
        stage.puppets["n3"].say(
            vote_request=peer_pb2.VoteRequest(term=7, last_index=1, last_term=0)
        )

        assert (await stage.puppets["n3"].hears("vote_reply")).vote_reply.granted

        assert stage.loop.time() - asked_s >= 0.050
        assert stage.host.disk.power_cut(stage.host.draw).names()

    on_stage(scenario)


def test_a_candidate_asks_for_votes_after_its_own_is_on_disk() -> None:
    async def scenario(stage: Stage) -> None:
        stage.host.syncer.delay_s = (0.050, 0.050)
        request = (await stage.puppets["n3"].hears("pre_vote_request")).pre_vote_request
        granted_s = stage.loop.time()
        reply = peer_pb2.PreVoteReply(attempt=request.attempt, granted=True)
        stage.puppets["n3"].say(pre_vote_reply=reply)

        await stage.puppets["n3"].hears("vote_request")

        assert stage.loop.time() - granted_s >= 0.050

    on_stage(scenario)


def test_a_node_votes_once_in_a_term_also_across_a_power_cut() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n3"].say(
            vote_request=peer_pb2.VoteRequest(term=7, last_index=1, last_term=0)
        )
        assert (await stage.puppets["n3"].hears("vote_reply")).vote_reply.granted
        stage.host.cut_power()
        await stage.host.start()
        puppet = Puppet(stage, "n1")
        stage.dial(puppet)
        await puppet.hears("hello")

        puppet.say(vote_request=peer_pb2.VoteRequest(term=7, last_index=9, last_term=6))

        assert not (await puppet.hears("vote_reply")).vote_reply.granted

    on_stage(scenario)


# ---------------------------------------------------------------------- staying and leaving


def test_a_leader_without_a_majority_steps_down() -> None:
    async def scenario(cluster: Cluster) -> None:
        cluster.load.on = False
        await cluster.start()
        leader = await cluster.await_leader()
        for host in cluster.followers():
            host.pause()
        await cluster.until(
            "it has stepped down",
            lambda: leader.replica.status().role is not Role.LEADER,
            within_s=2.0,
        )

    simulate(scenario, seed="no majority")


def test_late_answers_are_no_contact() -> None:
    """Acks of what was sent before a pause keep no leader that has been replaced meanwhile."""

    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")
        await stage.puppets["n3"].hears("append")
        for _ in range(40):
            if stage.host.replica.status().role is not Role.LEADER:
                return
            stage.puppets["n3"].say(
                append_reply=peer_pb2.AppendReply(
                    term=term, round=1, accepted=True, next_index=3, last_index=2
                )
            )
            await stage.pass_time(0.05)
        pytest.fail("it still leads")

    on_stage(scenario)


def test_a_node_that_overslept_reads_its_sockets_before_it_acts() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.await_leader()
        term = leader.replica.status().term
        sleeper = cluster.followers()[0]
        for _ in range(5):
            sleeper.pause()
            await asyncio.sleep(2.0)
            sleeper.resume()
            await asyncio.sleep(0.5)
            assert sleeper.replica.status().role is Role.FOLLOWER

        assert (await cluster.await_leader()).replica.status().term == term

    simulate(scenario, seed="overslept")


def test_a_tick_that_was_due_before_a_long_sleep_unseats_nobody() -> None:
    async def scenario(stage: Stage) -> None:
        leader = stage.puppets["n1"]
        leader.say(append=append(1, (1, 0), []))
        await leader.hears("append_reply")
        # Ready to run, as SIGSTOP may find it; the leader's word waits in the sockets meanwhile.
        stage.host.replica._engine._request_tick()
        stage.host.pause()
        for _ in range(20):
            await stage.pass_time(0.1)
            leader.say(append=append(1, (1, 0), []))
        stage.host.resume()
        await stage.pass_time(0.05)

        assert not any(message.HasField("pre_vote_request") for message in leader.heard)

    on_stage(scenario)


def test_a_node_that_wakes_helps_nobody_unseat_a_leader_it_has_not_heard_yet() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(1, (1, 0), []))
        await stage.puppets["n1"].hears("append_reply")
        stage.host.pause()
        # The leader's word may lie in another socket, and be read later.
        stage.puppets["n3"].say(pre_vote_request=_request(2, 1, 0))
        await stage.pass_time(1.0)
        stage.host.resume()

        assert not (await stage.puppets["n3"].hears("pre_vote_reply")).pre_vote_reply.granted

    on_stage(scenario)


def test_a_node_that_slept_counts_only_the_silence_it_was_awake_for() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(1, (1, 0), []))
        await stage.puppets["n1"].hears("append_reply")
        stage.host.pause()
        await stage.pass_time(5.0)
        stage.host.resume()
        await stage.pass_time(0.1)

        stage.puppets["n3"].say(pre_vote_request=_request(2, 1, 0))
        assert not (await stage.puppets["n3"].hears("pre_vote_reply")).pre_vote_reply.granted

        await stage.pass_time(0.4)
        stage.puppets["n3"].say(pre_vote_request=_request(2, 1, 0))
        assert (await stage.puppets["n3"].hears("pre_vote_reply")).pre_vote_reply.granted

    on_stage(scenario)


def _stood(stage: Stage) -> bool:
    return any(m.HasField("vote_request") for m in stage.puppets["n3"].heard)


def test_who_was_told_to_stand_before_a_long_sleep_does_not() -> None:
    async def scenario(stage: Stage) -> None:
        leader = stage.puppets["n1"]
        leader.say(append=append(1, (1, 0), []))
        await leader.hears("append_reply")
        stage.host.pause()
        leader.say(timeout_now=peer_pb2.TimeoutNow(term=1))
        for _ in range(20):
            await stage.pass_time(0.075)
            leader.say(append=append(1, (1, 0), []))
        stage.host.resume()
        await stage.pass_time(0.1)

        assert not _stood(stage)

    on_stage(scenario)


def test_who_was_told_to_stand_does_not_once_another_term_has_its_leader() -> None:
    async def scenario(stage: Stage) -> None:
        leader = stage.puppets["n1"]
        leader.say(append=append(1, (1, 0), []))
        await leader.hears("append_reply")
        stage.host.pause()
        leader.say(timeout_now=peer_pb2.TimeoutNow(term=1))
        leader.say(append=append(2, (1, 0), []))
        await stage.pass_time(0.02)
        stage.host.resume()
        await stage.pass_time(0.1)

        assert not _stood(stage)
        assert stage.host.replica.status().leader_id == "n1"

    on_stage(scenario)


def test_who_has_no_state_to_lead_with_does_not_stand_when_told_to() -> None:
    async def scenario(stage: Stage) -> None:
        leader = stage.puppets["n1"]
        leader.say(append=append(1, (1, 0), []))
        await leader.hears("append_reply")
        stage.host.replica._engine.elections._may_stand = lambda: False

        leader.say(timeout_now=peer_pb2.TimeoutNow(term=1))
        await stage.pass_time(0.1)

        assert not _stood(stage)

    on_stage(scenario)


def test_leadership_handed_over_costs_no_timeout() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.await_leader()
        heir = cluster.followers()[0]
        began_s = cluster.loop.time()

        assert await leader.replica.transfer_leadership(heir.name, 2.0) == heir.name

        await cluster.until("the heir can decide", lambda: heir.replica.decidable() is not None)
        assert cluster.loop.time() - began_s < 0.1

    simulate(scenario, seed="hand over")


def test_a_leader_that_is_to_take_over_has_nothing_to_do_once_it_is_sure_that_it_leads() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.await_leader()

        assert await leader.replica.transfer_leadership(leader.name, 2.0) == leader.name

        for follower in cluster.followers():
            follower.pause()
        with pytest.raises((TimeoutError, NotLeaderError)):
            await leader.replica.transfer_leadership(leader.name, 0.3)

    simulate(scenario, seed="to itself")


def test_who_cannot_hand_over_goes_on_as_before() -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.await_leader()
        cluster.load.on = False
        await cluster.put(b"nothing is in flight")
        heir = cluster.followers()[0]
        heir.pause()
        handing_over = asyncio.ensure_future(leader.replica.transfer_leadership(heir.name, 0.5))
        await asyncio.sleep(0.1)
        assert leader.replica.decidable() is None, "it would be decided in vain"
        with pytest.raises(TimeoutError):
            await handing_over
        assert leader.replica.decidable() is not None
        heir.resume()
        # What it was told reaches it now, and it may stand after all.
        await cluster.put(b"goes on")

    simulate(scenario, seed="cannot")
