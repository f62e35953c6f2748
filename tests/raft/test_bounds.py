"""What a peer says is bounded: what no broker can have reached changes nothing on this one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.world.puppet import Puppet, Stage, append, on_stage
from tq.internal.v1 import peer_pb2
from tq_cluster.raft import bounds
from tq_cluster.raft.bounds import WALL_MS_MAX
from tq_common.limits import TERM_MAX, TERM_STEP_MAX

FAR = 1 + TERM_STEP_MAX + 1
"""One more than may be above term 1."""
VOID = 2**64 - 1

Message = dict[str, object]


async def cut(stage: Stage, puppet: Puppet) -> None:
    await stage.until("it is cut", lambda: not puppet.connected)


def _with_term(term: int) -> list[Message]:
    """Every message that names a term."""
    return [
        {"append": append(term, (2, 1), [])},
        {"append_reply": peer_pb2.AppendReply(term=term)},
        {"probe": peer_pb2.Probe(term=term)},
        {"echo": peer_pb2.Echo(term=term)},
        {"pre_vote_request": peer_pb2.PreVoteRequest(term=term)},
        {"pre_vote_reply": peer_pb2.PreVoteReply(term=term)},
        {"vote_request": peer_pb2.VoteRequest(term=term)},
        {"vote_reply": peer_pb2.VoteReply(term=term)},
        {"term_notice": peer_pb2.TermNotice(term=term)},
        {"timeout_now": peer_pb2.TimeoutNow(term=term)},
        {"snapshot_chunk": peer_pb2.SnapshotChunk(term=term)},
        {"snapshot_reply": peer_pb2.SnapshotReply(term=term)},
    ]


def test_every_message_that_names_a_term_is_among_those_tried() -> None:
    bodies = peer_pb2.PeerMessage.DESCRIPTOR.oneofs_by_name["body"].fields
    named = {
        body.name
        for body in bodies
        if body.message_type is not None and "term" in body.message_type.fields_by_name
    }

    assert {name for message in _with_term(1) for name in message} == named


@pytest.mark.parametrize("term", [FAR, TERM_MAX, 2**63, VOID])
def test_a_term_that_no_broker_can_have_reached_is_not_adopted(term: int) -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(1, (1, 0), [(1, b"held")]))
        await stage.puppets["n1"].hears("append_reply")
        for message in _with_term(term):
            puppet = Puppet(stage, "n1")
            stage.dial(puppet)
            await puppet.hears("hello")

            puppet.say(**message)

            refusal = (await puppet.hears("refusal")).refusal
            assert f"term {term} is" in refusal.message, message
            await cut(stage, puppet)
        assert stage.host.replica.status().term == 1
        assert stage.host.journal.getCurrentTerm() == 1

    on_stage(scenario)


def test_a_node_that_missed_a_million_elections_follows() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(1, (1, 0), [(1, b"held")]))
        await stage.puppets["n1"].hears("append_reply")

        stage.puppets["n1"].say(append=append(FAR - 1, (2, 1), []))

        await stage.puppets["n1"].hears("append_reply")
        assert stage.host.replica.status().term == FAR - 1

    on_stage(scenario)


def test_a_node_that_never_had_a_term_takes_any_that_a_cluster_can_be_in() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(append=append(FAR + 5, (1, 0), [(FAR + 5, b"first")]))

        await stage.puppets["n1"].hears("append_reply")
        assert stage.host.replica.status().term == FAR + 5

    on_stage(scenario)


def _ack_beyond(stage: Stage, term: int) -> Message:
    last_index = stage.host.journal.last_index
    return {
        "append_reply": peer_pb2.AppendReply(
            term=term, accepted=True, next_index=last_index + 2, last_index=last_index + 1
        )
    }


def _ack_of_a_round_to_come(stage: Stage, term: int) -> Message:
    latest = stage.host.replica._engine.rounds.latest
    reply = peer_pb2.AppendReply(term=term, round=latest + 1, accepted=True, next_index=2)
    return {"append_reply": reply}


def _echo_of_a_round_to_come(stage: Stage, term: int) -> Message:
    latest = stage.host.replica._engine.rounds.latest
    return {"echo": peer_pb2.Echo(term=term, round=latest + 1)}


def _wall_clock_of_no_year(stage: Stage, term: int) -> Message:
    return {"echo": peer_pb2.Echo(term=term, wall_ms=WALL_MS_MAX + 1)}


def _ping_of_no_year(stage: Stage, term: int) -> Message:
    return {"ping": peer_pb2.Ping(wall_ms=-1)}


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        (_ack_beyond, "the leader's last is"),
        (_ack_of_a_round_to_come, "the leader's latest is"),
        (_echo_of_a_round_to_come, "the leader's latest is"),
        (_wall_clock_of_no_year, "wall clock"),
        (_ping_of_no_year, "wall clock"),
    ],
)
def test_a_leader_is_not_told_what_cannot_be(
    lie: Callable[[Stage, int], Message], said: str
) -> None:
    async def scenario(stage: Stage) -> None:
        term = await stage.elect("n3")

        stage.puppets["n3"].say(**lie(stage, term))

        assert said in (await stage.puppets["n3"].hears("refusal")).refusal.message
        assert stage.host.replica.status().peers["n3"].match_index == 0
        assert stage.host.up

    on_stage(scenario)


def _newer_before_older() -> Message:
    return {"append": append(5, (1, 0), [(5, b"newer"), (4, b"older")])}


def _newer_than_its_leader() -> Message:
    return {"append": append(5, (1, 0), [(6, b"from the future")])}


def _beyond_any_log() -> Message:
    return {"append": append(5, (bounds.INDEX_MAX, 4), [])}


def _committed_beyond_any_log() -> Message:
    return {"append": append(5, (1, 0), [], commit_index=VOID)}


def _votes_for_a_log_to_come() -> Message:
    return {"vote_request": peer_pb2.VoteRequest(term=5, last_term=6)}


def _a_piece_beyond_its_file() -> Message:
    chunk = peer_pb2.SnapshotChunk(term=5, file_bytes=3, offset=2, data=b"ab")
    return {"snapshot_chunk": chunk}


def _a_file_beyond_any_disk() -> Message:
    chunk = peer_pb2.SnapshotChunk(term=5, file_bytes=bounds.FILE_BYTES_MAX + 1, data=b"ab")
    return {"snapshot_chunk": chunk}


def _an_endless_digest() -> Message:
    return {"range_hash": peer_pb2.RangeHash(index=5, digest=b"x" * 1000)}


@pytest.mark.parametrize(
    "lie",
    [
        _newer_before_older,
        _newer_than_its_leader,
        _beyond_any_log,
        _committed_beyond_any_log,
        _votes_for_a_log_to_come,
        _a_piece_beyond_its_file,
        _a_file_beyond_any_disk,
        _an_endless_digest,
    ],
)
def test_a_follower_is_not_told_what_cannot_be(lie: Callable[[], Message]) -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n1"].say(**lie())

        await stage.puppets["n1"].hears("refusal")
        await stage.until("it is cut", lambda: not stage.puppets["n1"].connected)
        status = stage.host.replica.status()
        assert (status.term, status.last_index, status.commit_index) == (0, 1, 1)

    on_stage(scenario)


def _endless_id(hello: peer_pb2.Hello) -> None:
    hello.node_id = "x" * 4000


def _id_that_writes_on_terminals(hello: peer_pb2.Hello) -> None:
    hello.node_id = "\x1b[31mn1"


def _endless_incarnation(hello: peer_pb2.Hello) -> None:
    hello.incarnation = "x" * 4000


def _crowd_of_members(hello: peer_pb2.Hello) -> None:
    hello.member_ids[:] = [f"n{number}" for number in range(8)]


def _entry_beyond_any_log(hello: peer_pb2.Hello) -> None:
    hello.applied_index = VOID


def _clock_of_no_year(hello: peer_pb2.Hello) -> None:
    hello.wall_ms = 2**63 - 1


@pytest.mark.parametrize(
    "spoil",
    [
        _endless_id,
        _id_that_writes_on_terminals,
        _endless_incarnation,
        _crowd_of_members,
        _entry_beyond_any_log,
        _clock_of_no_year,
    ],
)
def test_a_hello_out_of_bounds_is_refused_and_not_repeated(
    spoil: Callable[[peer_pb2.Hello], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(stage: Stage) -> None:
        before = stage.host.replica.status().peers["n1"]
        puppet = Puppet(stage, "n1")
        spoil(puppet.introduction)
        stage.dial(puppet)

        refusal = (await puppet.hears("refusal")).refusal

        assert len(refusal.message) < 200
        assert stage.host.replica.status().peers["n1"] == before
        written = [str(record.__dict__) for record in caplog.records]
        assert not any("\x1b" in line or "x" * 200 in line for line in written)

    on_stage(scenario)
