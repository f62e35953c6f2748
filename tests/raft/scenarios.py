"""What goes wrong without each rule, as short scenarios.

Each returns what is broken for a user, or "" if the promise held. ``with_rule`` says whether the
rule is on. The scenarios of the rules that no switch can turn off (R7, R9, R10, R12) are in
stock_scenarios.py: they show unmodified PySyncObj.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import zlib

from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.puppet import Stage, append, on_stage
from tq.internal.v1 import peer_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import NotLeaderError
from tq_cluster.raft.settings import RaftSettings, Rules


def _settings(rule: str, *, with_rule: bool, append_bytes: int = 256 * 1024) -> RaftSettings:
    rules = dataclasses.replace(Rules(), **{rule: with_rule})
    return RaftSettings(rules=rules, append_bytes=append_bytes)


# ---------------------------------------------------------------------- R1


def an_ack_of_an_earlier_reign(*, with_rule: bool) -> str:
    """R1: a delayed ack of a follower from an earlier term arrives in this one."""

    async def scenario(stage: Stage) -> str:
        term = await stage.elect("n3")
        stage.puppets["n3"].say(
            append_reply=peer_pb2.AppendReply(
                term=term - 1, accepted=True, next_index=9, last_index=8
            )
        )
        await stage.pass_time(0.05)
        status = stage.host.replica.status()
        if status.commit_index > 1:
            return f"entry {status.commit_index} counts as committed, and only its leader holds it"
        return ""

    return on_stage(scenario, settings=_settings("terms_in_answers", with_rule=with_rule))


def one_voter_votes_twice(*, with_rule: bool) -> str:
    """R1: with five members, one voter's answer arrives twice."""

    async def scenario(stage: Stage) -> str:
        voter = stage.puppets["n3"]
        for name in ("n3", "n4"):
            request = (await stage.puppets[name].hears("pre_vote_request")).pre_vote_request
            stage.puppets[name].say(
                pre_vote_reply=peer_pb2.PreVoteReply(attempt=request.attempt, granted=True)
            )
        vote = (await voter.hears("vote_request")).vote_request
        for _ in range(2):
            voter.say(vote_reply=peer_pb2.VoteReply(term=vote.term, granted=True))
        await stage.pass_time(0.02)
        if stage.host.replica.status().leader_id == "n2":
            return "it leads five members with its own vote and one other, counted twice"
        return ""

    return on_stage(scenario, size=5, settings=_settings("terms_in_answers", with_rule=with_rule))


# ---------------------------------------------------------------------- R2


def an_append_is_resent(*, with_rule: bool) -> str:
    """R2: the leader resends a part of what the follower already holds."""

    async def scenario(stage: Stage) -> str:
        leader = stage.puppets["n1"]
        entries = [(1, b"entry %d" % number) for number in range(2, 7)]
        leader.say(append=append(1, (1, 0), entries))
        acknowledged = (await leader.hears("append_reply")).append_reply.next_index - 1
        leader.say(append=append(1, (1, 0), entries[:2]))
        await leader.hears("append_reply")
        if stage.host.journal.last_index < acknowledged:
            return (
                f"entries up to {acknowledged} were acknowledged; after a resend the log ends at "
                f"{stage.host.journal.last_index}"
            )
        return ""

    return on_stage(scenario, settings=_settings("keep_what_matches", with_rule=with_rule))


# ---------------------------------------------------------------------- R3


def acks_while_more_is_on_its_way(*, with_rule: bool) -> str:
    """R3: a follower catches up, and its first ack arrives after the rest was sent."""

    async def scenario(stage: Stage) -> str:
        near, far = stage.puppets["n1"], stage.puppets["n3"]
        term = await stage.elect("n1")
        replica = stage.host.replica
        near.say(append_reply=_ack(term, 3))
        for number in range(20):
            index = await stage.propose(b"entry %d" % number)
            near.say(append_reply=_ack(term, index + 1))
        await stage.until("all is committed", lambda: replica.decidable() is not None)
        # The far follower has received nothing so far.
        far.heard.clear()
        far.say(
            append_reply=peer_pb2.AppendReply(term=term, accepted=False, next_index=2, last_index=1)
        )
        await far.hears("append")
        for index in range(2, 6):
            far.say(append_reply=_ack(term, index + 1))
        await stage.pass_time(0.3)
        sent = collections.Counter(
            message.prev_index + 1 + offset
            for message in far.appends()
            for offset in range(len(message.entries))
        )
        index, times = max(sent.items(), key=lambda item: item[1])
        return f"entry {index} was sent {times} times over one connection" if times > 1 else ""

    settings = _settings("monotonic_next_index", with_rule=with_rule, append_bytes=1)
    return on_stage(scenario, settings=settings)


def _ack(term: int, next_index: int) -> peer_pb2.AppendReply:
    return peer_pb2.AppendReply(
        term=term, accepted=True, next_index=next_index, last_index=next_index - 1
    )


# ---------------------------------------------------------------------- R4


def a_power_cut_after_an_acknowledgement(*, with_rule: bool) -> str:
    """R4: the power fails everywhere right after an entry was acknowledged to its caller."""

    async def scenario(cluster: Cluster) -> str:
        cluster.load.on = False
        for host in cluster.hosts.values():
            # The checker would stop the run at once; this scenario shows the loss itself.
            host.checker = None
        await cluster.start()
        await cluster.await_leader()
        for host in cluster.hosts.values():
            host.syncer.delay_s = (0.020, 0.040)
        leader = await cluster.await_leader()
        base = leader.replica.decidable()
        assert base is not None
        await leader.replica.propose(b"precious", base)
        for host in cluster.hosts.values():
            host.cut_power()
        for host in cluster.hosts.values():
            await host.start()
        await cluster.await_leader()
        kept = [entry for _, _, entry in (await cluster.await_leader()).machine.entries]
        return "" if b"precious" in kept else "an acknowledged entry is lost after a power cut"

    settings = _settings("answer_after_fsync", with_rule=with_rule)
    return simulate(scenario, seed="power cut", settings=settings)


# ---------------------------------------------------------------------- R5, R6


def a_snapshot_begins_to_arrive(*, with_rule: bool) -> str:
    """R5: a node with an uncommitted tail receives a snapshot."""

    async def scenario(stage: Stage) -> str:
        stage.puppets["n1"].say(append=append(1, (1, 0), [(1, b"never committed")] * 3))
        await stage.puppets["n1"].hears("append_reply")
        chunk = _chunk(2, AppliedAt(9, 2), b"first piece", file_bytes=1_000_000)
        stage.puppets["n3"].say(snapshot_chunk=chunk)
        await stage.puppets["n3"].hears("snapshot_reply")
        await stage.pass_time(0.05)
        applied = [entry for _, _, entry in stage.host.machine.entries[1:]]
        return f"it applied {applied[0]!r} as entry 2" if applied else ""

    return on_stage(scenario, settings=_settings("chunks_commit_nothing", with_rule=with_rule))


def a_late_snapshot(*, with_rule: bool) -> str:
    """R6: a snapshot arrives at a log that has grown beyond it."""

    async def scenario(stage: Stage) -> str:
        leader = stage.puppets["n1"]
        entries = [(1, b"entry %d" % number) for number in range(2, 12)]
        leader.say(append=append(1, (1, 0), entries))
        acknowledged = (await leader.hears("append_reply")).append_reply.next_index - 1
        content = b'[[1, 0, ""], [2, 1, "00"], [3, 1, "00"]]'
        leader.say(snapshot_chunk=_chunk(1, AppliedAt(3, 1), content))
        await leader.hears("snapshot_reply")
        await stage.pass_time(0.2)
        if stage.host.journal.last_index < acknowledged:
            return (
                f"entries up to {acknowledged} were acknowledged; after a snapshot of entry 3 the "
                f"log ends at {stage.host.journal.last_index}"
            )
        return ""

    return on_stage(scenario, settings=_settings("verified_snapshots", with_rule=with_rule))


def _chunk(
    term: int, at: AppliedAt, data: bytes, file_bytes: int | None = None
) -> peer_pb2.SnapshotChunk:
    return peer_pb2.SnapshotChunk(
        term=term,
        last_index=at.index,
        last_term=at.term,
        file_bytes=len(data) if file_bytes is None else file_bytes,
        file_crc=zlib.crc32(data),
        data=data,
    )


# ---------------------------------------------------------------------- R8


def a_node_was_cut_off_for_a_while(*, with_rule: bool) -> str:
    """R8: an isolated follower comes back to a cluster with a healthy leader."""

    async def scenario(cluster: Cluster) -> str:
        await cluster.start()
        leader = await cluster.await_leader()
        term = leader.replica.status().term
        lonely = cluster.followers()[0]
        for other in cluster.hosts:
            cluster.network.block(lonely.name, other)
            cluster.network.block(other, lonely.name)
        await asyncio.sleep(2.5)
        cluster.network.heal()
        await asyncio.sleep(2.0)
        now = (await cluster.await_leader()).replica.status().term
        return "" if now == term else f"a healthy leader was deposed: term {term} became {now}"

    settings = _settings("pre_vote", with_rule=with_rule)
    return simulate(scenario, seed="cut off", settings=settings)


# ---------------------------------------------------------------------- R11


def a_long_divergent_tail(*, with_rule: bool) -> str:
    """R11: a deposed leader comes back with thirty entries that no other node has."""

    async def scenario(stage: Stage) -> str:
        stage.puppets["n1"].say(append=append(1, (1, 0), [(1, b"lost")] * 30))
        await stage.puppets["n1"].hears("append_reply")
        leader = stage.puppets["n3"]
        next_index, round_trips = 32, 0
        while True:
            prev = (next_index - 1, 2 if next_index > 2 else 0)
            leader.say(append=append(2, prev, []))
            reply = (await leader.hears("append_reply")).append_reply
            round_trips += 1
            if reply.accepted:
                break
            next_index = reply.next_index
        return "" if round_trips < 5 else f"{round_trips} round trips to find where the logs agree"

    return on_stage(scenario, settings=_settings("skip_whole_terms", with_rule=with_rule))


# ---------------------------------------------------------------------- R13


def a_leader_wakes_up(*, with_rule: bool) -> str:
    """R13: a paused leader is read after another leader has acknowledged a write."""

    async def scenario(cluster: Cluster) -> str:
        cluster.load.on = False
        await cluster.start()
        sleeper = await cluster.await_leader()
        sleeper.pause()
        await cluster.until("another leads", lambda: cluster.leader() not in {None, sleeper})
        written = await cluster.put(b"written in the next leadership")
        sleeper.resume()
        try:
            confirmed = await asyncio.wait_for(sleeper.replica.confirm(), 5.0)
        except NotLeaderError:
            return ""
        if confirmed.index < written:
            return f"a stale read: confirmed at entry {confirmed.index}, {written} was acknowledged"
        return ""

    settings = _settings("confirm_by_rounds", with_rule=with_rule)
    return simulate(scenario, seed="sleeper", settings=settings)
