"""A host that reaches the raft port and is no member learns, changes and holds nothing."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.simulation.world.puppet import CLUSTER_ID, Puppet, Stage, append, on_stage
from tests.simulation.world.virtual_loop import HostLoop
from tq.internal.v1 import peer_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.raft import frames
from tq_cluster.raft.lobby import WAITING_AT_ADDRESS_MAX, WAITING_MAX
from tq_cluster.raft.membership import marked
from tq_cluster.raft.peers import HANDSHAKE_SWEEPS_MAX, SWEEP_S

DISKS = {name: f"disk of {name}" for name in ("n1", "n2", "n3")}


class Stranger(asyncio.Protocol):
    """Speaks bytes; what it was sent is in ``heard``."""

    def __init__(self, stage: Stage, address: str = "elsewhere") -> None:
        self.heard = b""
        self.ended = False
        self.transport: asyncio.Transport | None = None
        network = stage.network.of_host(address, HostLoop(stage.loop))
        network.dial(stage.members["n2"], self, _fail)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True

    def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def messages(self) -> list[peer_pb2.PeerMessage]:
        return list(frames.Decoder().feed(self.heard))


async def cut(stage: Stage, stranger: Stranger) -> None:
    await stage.until("it is cut", lambda: stranger.ended)


def _fail(error: OSError) -> None:
    raise error


async def connected(stage: Stage, address: str = "elsewhere") -> Stranger:
    stranger = Stranger(stage, address)
    await stage.until("it is connected", lambda: stranger.transport is not None)
    return stranger


async def named(stage: Stage) -> None:
    """Have the state say who the members are."""
    entry = marked(b"", DISKS)
    stage.puppets["n1"].say(append=append(1, (1, 0), [(1, entry)], commit_index=2))
    await stage.until("it is applied", lambda: stage.host.machine.applied == AppliedAt(2, 1))


def test_the_port_greets_no_one() -> None:
    async def scenario(stage: Stage) -> None:
        stranger = await connected(stage)

        await stage.until("it is cut", lambda: stranger.ended, within_s=30.0)

        assert stranger.heard == b""

    on_stage(scenario)


@pytest.mark.parametrize(
    "spoilt", ["cluster_id", "incarnation", "node_id", "member_ids", "group_id", "format"]
)
def test_a_stranger_that_is_refused_learns_neither_the_cluster_nor_its_disks(spoilt: str) -> None:
    async def scenario(stage: Stage) -> None:
        await named(stage)
        puppet = Puppet(stage, "n3")
        hello = puppet.introduction
        match spoilt:
            case "member_ids":
                hello.member_ids[:] = ["n1", "n2"]
            case "group_id" | "format":
                setattr(hello, spoilt, 7)
            case _:
                setattr(hello, spoilt, "guessed")
        stage.dial(puppet)

        refusal = (await puppet.hears("refusal")).refusal

        assert not [message for message in puppet.heard if message.HasField("hello")]
        assert "disk of" not in refusal.message
        assert spoilt == "cluster_id" or CLUSTER_ID not in refusal.message

    on_stage(scenario)


def test_a_hello_that_is_refused_is_not_believed_about_the_members() -> None:
    async def scenario(stage: Stage) -> None:
        await named(stage)
        liar = Puppet(stage, "n1")
        liar.introduction.incarnation = "feedbeef"
        liar.introduction.applied_index = 2**61
        liar.introduction.incarnations.update({name: f"0000{DISKS[name]}" for name in DISKS})
        stage.dial(liar)
        await liar.hears("refusal")

        again = Puppet(stage, "n1")
        stage.dial(again)

        await again.hears("hello")
        assert stage.host.replica.status().peers["n1"].connected

    on_stage(scenario)


def test_whom_a_member_names_is_believed() -> None:
    async def scenario(stage: Stage) -> None:
        await named(stage)
        member = stage.puppets["n1"]
        member.introduction.applied_index = 9
        member.introduction.incarnations.update({**DISKS, "n3": "another disk"})

        member.say(hello=member.introduction)

        await stage.until(
            "the old disk is left alone",
            lambda: not stage.host.replica.status().peers["n3"].connected,
        )

    on_stage(scenario)


@pytest.mark.parametrize(
    ("own_disk", "believed"), [(DISKS["n2"], True), ("guessed", False), ("", False)]
)
def test_a_disk_that_took_a_members_place_vouches_for_itself_if_it_knows_this_one(
    own_disk: str, believed: bool
) -> None:
    """Who was away while all disks that it knows were replaced hears of it from no one else."""

    async def scenario(stage: Stage) -> None:
        await named(stage)
        puppet = stage.puppets["n3"]
        puppet.heard.clear()
        puppet.introduction.incarnation = "a new disk"
        puppet.introduction.applied_index = 9
        puppet.introduction.incarnations.update({"n1": "another", "n3": "a new disk"})
        if own_disk:
            puppet.introduction.incarnations["n2"] = own_disk
        stage.network.break_links("n2", "n3")

        def connected() -> bool:
            return stage.host.replica.status().peers["n3"].connected

        if believed:
            await stage.until("it is admitted", lambda: puppet.connected and connected())
        else:
            await puppet.hears("refusal")
            assert not connected()

    on_stage(scenario)


def test_the_dialler_names_no_disk_but_its_own_before_it_knows_who_listens() -> None:
    async def scenario(stage: Stage) -> None:
        await named(stage)
        stage.puppets["n3"].heard.clear()
        stage.network.break_links("n2", "n3")

        first = (await stage.puppets["n3"].hears("hello")).hello
        second = (await stage.puppets["n3"].hears("hello")).hello

        assert (first.incarnation, dict(first.incarnations)) == (DISKS["n2"], {})
        assert dict(second.incarnations) == DISKS

    on_stage(scenario)


def test_members_are_told_when_the_state_names_other_disks() -> None:
    async def scenario(stage: Stage) -> None:
        stage.puppets["n3"].heard.clear()
        await named(stage)

        news = (await stage.puppets["n3"].hears("hello")).hello

        assert (dict(news.incarnations), news.applied_index) == (DISKS, 2)

    on_stage(scenario)


def test_a_refusal_from_whoever_dials_makes_no_stranger_of_this_node() -> None:
    async def scenario(stage: Stage) -> None:
        for puppet in stage.puppets.values():
            assert puppet._transport is not None
            puppet._transport.abort()
        stranger = await connected(stage)
        message = peer_pb2.Refusal(message="you are no member", stranger=True)

        stranger.say(b"".join(frames.encode(peer_pb2.PeerMessage(refusal=message))))

        await stage.until("it is cut", lambda: stranger.ended)
        assert not stage.host.replica._engine.formation.stranger
        assert "no member" not in stage.host.replica.status().message

    on_stage(scenario)


def test_two_empty_disks_of_one_name_are_none_that_could_be_taken_in() -> None:
    async def scenario(stage: Stage) -> None:
        await named(stage)
        for incarnation in ("the operator's", "somebody's"):
            puppet = Puppet(stage, "n1")
            puppet.introduction.cluster_id = ""
            puppet.introduction.pristine = True
            puppet.introduction.incarnation = incarnation
            stage.dial(puppet)
            await puppet.hears("refusal")
            seen = stage.host.replica.status().strangers
            assert seen == ({"n1": incarnation} if incarnation == "the operator's" else {})

    on_stage(scenario)


def test_a_byte_now_and_then_does_not_keep_a_stranger_in() -> None:
    async def scenario(stage: Stage) -> None:
        stranger = await connected(stage)
        began_s = stage.loop.time()
        for byte in _frame(bytes(1000)):
            if stranger.ended:
                break
            stranger.say(bytes([byte]))
            await stage.pass_time(0.25)
            assert stage.loop.time() - began_s <= HANDSHAKE_SWEEPS_MAX * SWEEP_S + 1.0

        assert stage.loop.time() - began_s > HANDSHAKE_SWEEPS_MAX * SWEEP_S - 1.0

    on_stage(scenario)


def _frame(payload: bytes, kind: int = frames.MESSAGE) -> bytes:
    return frames._frame(kind, payload)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: raft\r\n\r\n", id="HTTP"),
        pytest.param(_frame(b"x" * (frames.GREETING_BYTES_MAX + 1)), id="too long a greeting"),
        pytest.param(frames.encode(peer_pb2.PeerMessage(ping=peer_pb2.Ping()))[0], id="a ping"),
        pytest.param(_frame(b"\x0a\x03abc"), id="a Hello that is none"),
        pytest.param(_frame(b"\x0a\x00\x1a\x00"), id="a ping behind a Hello"),
        pytest.param(_frame(b""), id="an empty frame"),
        pytest.param(_frame(b"\x01" * 33, frames.PROOF), id="a proof, where no secret is known"),
    ],
)
def test_what_is_no_hello_ends_its_connection_without_an_answer(data: bytes) -> None:
    async def scenario(stage: Stage) -> None:
        stranger = await connected(stage)

        stranger.say(data)

        await stage.until("it is cut", lambda: stranger.ended)
        assert stranger.heard == b""
        assert stage.host.up
        assert all(peer.connected for peer in stage.host.replica.status().peers.values())

    on_stage(scenario)


def test_strangers_are_logged_once_however_many_come(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(stage: Stage) -> None:
        for number in range(50):
            stranger = await connected(stage)
            stranger.say(b"noise on the port %d" % number)
            await cut(stage, stranger)
            puppet = Puppet(stage, "n1")
            puppet.introduction.incarnation = f"guess {number}"
            stage.dial(puppet)
            await puppet.hears("refusal")

        warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert len(warnings) <= 2, [each.getMessage() for each in warnings]

    on_stage(scenario)


def test_so_many_may_wait_from_one_address_and_the_oldest_has_to_go() -> None:
    async def scenario(stage: Stage) -> None:
        crowd = [await connected(stage) for _ in range(WAITING_AT_ADDRESS_MAX)]
        assert not any(each.ended for each in crowd)

        last = await connected(stage)

        await stage.until("the oldest has gone", lambda: crowd[0].ended)
        assert not any(each.ended for each in (*crowd[1:], last))

    on_stage(scenario)


def test_a_peer_is_admitted_however_many_strangers_wait_at_other_addresses() -> None:
    async def scenario(stage: Stage) -> None:
        crowd = [
            await connected(stage, f"elsewhere {number // WAITING_AT_ADDRESS_MAX}")
            for number in range(WAITING_MAX)
        ]
        engine = stage.host.replica._engine
        assert len(engine.peers._lobby) == WAITING_MAX

        puppet = Puppet(stage, "n1")
        stage.dial(puppet)

        await puppet.hears("hello")
        assert len(engine.peers._lobby) <= WAITING_MAX
        assert sum(each.ended for each in crowd) <= 1

    on_stage(scenario)
