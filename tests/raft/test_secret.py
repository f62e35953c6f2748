"""The secret that brokers share: who does not hold it neither speaks nor hears."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.raft.real_cluster import RealCluster, real_cluster
from tests.raft.test_strangers import Stranger, connected
from tests.simulation.play.cluster import Cluster
from tests.simulation.play.runs import simulate
from tests.simulation.world.host import DrawnSecret
from tests.simulation.world.puppet import Puppet, Stage, on_stage
from tq.internal.v1 import peer_pb2
from tq_cluster.errors import StartError
from tq_cluster.raft import frames, handshake, secret
from tq_cluster.raft.handshake import Accepting, Dialling, HandshakeError
from tq_cluster.raft.secret import CHARS_MIN, NONCE_BYTES, ClusterSecret

OLD, NEW, ANOTHER = b"the old secret", b"the new secret", b"another cluster's secret"


def dialling(*keys: bytes, own: str = "n1", peer: str = "n2", nonce: int = 1) -> Dialling:
    return Dialling(own_id=own, peer_id=peer, keys=keys, nonce=bytes([nonce]) * NONCE_BYTES)


def accepting(*keys: bytes, own: str = "n2", nonce: int = 2) -> Accepting:
    return Accepting(own_id=own, keys=keys, nonce=bytes([nonce]) * NONCE_BYTES)


def spoken(dialler: Dialling, acceptor: Accepting) -> None:
    """Let the two speak to the end."""
    answer = acceptor.take(dialler.challenge())
    proof = dialler.take(answer)
    assert proof is not None
    assert dialler.take(acceptor.take(proof)) is None


# ---------------------------------------------------------------------- the handshake itself


@pytest.mark.parametrize(
    ("dials", "accepts"),
    [
        ((OLD,), (OLD,)),
        ((OLD,), (OLD, NEW)),
        ((OLD,), (NEW, OLD)),
        ((OLD, NEW), (OLD,)),
        ((NEW, OLD), (OLD,)),
        ((NEW,), (OLD, NEW)),
        ((OLD, NEW), (NEW, OLD)),
    ],
)
def test_two_that_have_a_secret_in_common_prove_it_in_any_step_of_a_rotation(
    dials: tuple[bytes, ...], accepts: tuple[bytes, ...]
) -> None:
    dialler, acceptor = dialling(*dials), accepting(*accepts)

    spoken(dialler, acceptor)

    assert dialler.done
    assert acceptor.done
    assert (acceptor.peer_id, acceptor.dialled_id) == ("n1", "n2")


def test_a_dialler_without_the_secret_is_told_no_more_than_a_nonce() -> None:
    acceptor = accepting(OLD, NEW)
    stranger = dialling(ANOTHER)

    answer = acceptor.take(stranger.challenge())
    assert answer[1:] == b"\x02" * NONCE_BYTES
    proof = stranger.take(answer)
    assert proof is not None

    with pytest.raises(HandshakeError, match="did not prove"):
        acceptor.take(proof)
    assert not acceptor.done


def test_an_acceptor_without_the_secret_is_found_out() -> None:
    dialler, impostor = dialling(OLD), accepting(ANOTHER)
    proof = dialler.take(impostor.take(dialler.challenge()))
    assert proof is not None

    with pytest.raises(HandshakeError, match="did not prove"):
        dialler.take(b"\x04" + bytes(32))
    assert not dialler.done


def test_a_proof_sent_back_to_who_made_it_proves_nothing() -> None:
    """Else a stranger could have each node prove itself to itself."""
    dialler = dialling(OLD)
    proof = dialler.take(b"\x02" + dialler.challenge()[1 : 1 + NONCE_BYTES])
    assert proof is not None

    with pytest.raises(HandshakeError):
        dialler.take(b"\x04" + proof[1:33])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda: accepting(OLD, nonce=3), id="on another connection"),
        pytest.param(lambda: accepting(ANOTHER), id="to another cluster"),
    ],
)
def test_a_proof_that_was_overheard_is_of_no_use(other: Callable[[], Accepting]) -> None:
    dialler, acceptor = dialling(OLD), accepting(OLD)
    challenge = dialler.challenge()
    proof = dialler.take(acceptor.take(challenge))
    assert proof is not None
    elsewhere = other()
    elsewhere.take(challenge)

    with pytest.raises(HandshakeError):
        elsewhere.take(proof)


def test_a_proof_is_of_no_use_under_other_names() -> None:
    for own, peer in (("n3", "n2"), ("n1", "n3")):
        dialler, acceptor = dialling(OLD), accepting(OLD)
        acceptor.take(dialling(OLD, own=own, peer=peer).challenge())
        proof = dialler.take(b"\x02" + b"\x02" * NONCE_BYTES)
        assert proof is not None

        with pytest.raises(HandshakeError):
            acceptor.take(proof)


def test_names_that_read_the_same_when_joined_make_other_proofs() -> None:
    proofs = set()
    for own, peer in (("n1", "1n2"), ("n11", "n2")):
        proofs.add(dialling(OLD, own=own, peer=peer).take(b"\x02" + bytes(NONCE_BYTES)))

    assert len(proofs) == 2


def test_no_message_that_was_damaged_or_cut_gets_anywhere() -> None:
    draw = random.Random(7)
    dialler, acceptor = dialling(OLD), accepting(OLD)
    challenge = dialler.challenge()
    answer = acceptor.take(challenge)
    proof = dialler.take(answer)
    assert proof is not None
    for good, size in itertools.product((challenge, answer, proof), range(40)):
        spoilt = bytearray(good[: len(good) - draw.randrange(3)])
        spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
        spoilt += draw.randbytes(size % 3)
        late = accepting(OLD)
        late.take(challenge)
        for judge in (accepting(OLD), late):
            try:
                judge.take(bytes(spoilt))
            except HandshakeError:
                continue
            assert not judge.done


def test_a_step_is_never_longer_than_a_greeting_may_be() -> None:
    longest = dialling(OLD, NEW, own="n" * 64, peer="m" * 64)

    assert len(longest.challenge()) <= handshake.STEP_BYTES_MAX <= frames.GREETING_BYTES_MAX


# ---------------------------------------------------------------------- a node that has one


def shared(*keys: bytes, required: bool = True) -> DrawnSecret:
    return DrawnSecret(random.Random(5), keys, required)


def with_secret(stage: Stage, *keys: bytes, required: bool = True) -> None:
    stage.host.secret = shared(*keys, required=required)


def test_a_peer_that_proves_nothing_is_told_nothing() -> None:
    async def scenario(stage: Stage) -> None:
        with_secret(stage, OLD)
        await stage.start(all_connect=False)
        puppet = Puppet(stage, "n1")
        stage.dial(puppet)

        await stage.until("it was connected", lambda: puppet.connected)
        await stage.until("it is cut", lambda: not puppet.connected)

        assert puppet.heard == []

    on_stage(scenario, started=False)


def test_a_node_that_dials_says_nothing_of_itself_to_who_proves_nothing() -> None:
    async def scenario(stage: Stage) -> None:
        with_secret(stage, OLD)
        await stage.start(all_connect=False)
        puppet = stage.puppets["n3"]

        def why() -> str:
            return stage.host.replica.status().message

        await stage.until("it has been dialled", lambda: "n3: " in why() and "challenge" in why())

        assert puppet.heard == []

    on_stage(scenario, started=False)


async def proved(stage: Stage, *keys: bytes, own: str = "n1", peer: str = "n2") -> Stranger:
    """Connect, and prove what can be proved with ``keys``."""
    caller = await connected(stage)
    dialler = dialling(*keys, own=own, peer=peer)
    caller.say(frames.encode_proof(dialler.challenge())[0])
    await stage.until("it is answered", lambda: bool(caller.heard))
    [(_, answer)] = frames.Decoder().greet(caller.heard)
    caller.heard = b""
    proof = dialler.take(answer)
    assert proof is not None
    caller.say(frames.encode_proof(proof)[0])
    await stage.until("it is judged", lambda: bool(caller.heard) or caller.ended)
    return caller


def test_who_proves_that_it_is_one_member_cannot_introduce_itself_as_another() -> None:
    async def scenario(stage: Stage) -> None:
        with_secret(stage, OLD)
        await stage.start(all_connect=False)
        caller = await proved(stage, OLD, own="n3")
        hello = stage.puppets["n1"].introduction
        caller.heard = b""

        caller.say(frames.encode(peer_pb2.PeerMessage(hello=hello))[0])

        await stage.until("it is cut", lambda: caller.ended)
        [refused] = caller.messages()
        assert refused.refusal.message == "n3 was expected at this address, not n1"

    on_stage(scenario, started=False)


def test_who_dialled_another_is_told_so_once_it_has_proved_itself() -> None:
    async def scenario(stage: Stage) -> None:
        with_secret(stage, OLD)
        await stage.start(all_connect=False)

        caller = await proved(stage, OLD, peer="n3")

        await stage.until("it is cut", lambda: caller.ended)
        _, refused = frames.Decoder().greet(caller.heard)
        message = peer_pb2.PeerMessage.FromString(refused[1]).refusal.message
        assert message == "n3 was expected at this address, not n2"

    on_stage(scenario, started=False)


def test_with_the_wrong_secret_the_connection_ends_and_the_operator_knows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(stage: Stage) -> None:
        with_secret(stage, OLD)
        await stage.start(all_connect=False)

        caller = await proved(stage, ANOTHER)

        assert caller.ended
        assert caller.heard == b""
        reasons = [record.__dict__.get("reason", "") for record in caplog.records]
        assert "did not prove that it holds the cluster's secret" in reasons
        assert OLD.decode() not in str([record.__dict__ for record in caplog.records])

    on_stage(scenario, started=False)


# ---------------------------------------------------------------------- a cluster


async def a_leader_is_found(cluster: Cluster) -> None:
    await cluster.start()
    await cluster.await_leader()
    await cluster.settle()


def test_a_cluster_whose_brokers_share_a_secret_works() -> None:
    async def scenario(cluster: Cluster) -> None:
        for host in cluster.machines:
            host.secret = shared(OLD)
        await a_leader_is_found(cluster)

    simulate(scenario, seed="one secret")


def test_a_new_secret_takes_the_old_ones_place_broker_by_broker() -> None:
    """Each broker gets both first, then the new one alone; the lines may stand in any order."""

    async def scenario(cluster: Cluster) -> None:
        for host in cluster.machines:
            host.secret = shared(OLD)
        await a_leader_is_found(cluster)
        for keys in ((NEW, OLD), (NEW,)):
            for host in cluster.machines:
                host.kill()
                host.secret = shared(*keys)
                await host.start()
                await cluster.await_leader()
                await cluster.until("all are connected", lambda: _all_connected(cluster))
        await cluster.settle()

    simulate(scenario, seed="rotation")


def test_a_running_cluster_is_closed_broker_by_broker() -> None:
    """First the secret for all, optional; then required. Meanwhile every pair stays connected."""

    async def scenario(cluster: Cluster) -> None:
        await a_leader_is_found(cluster)
        for required in (False, True):
            for host in cluster.machines:
                host.kill()
                host.secret = shared(OLD, required=required)
                await host.start()
                await cluster.await_leader()
                await cluster.until("all are connected", lambda: _all_connected(cluster))
        await cluster.settle()

    simulate(scenario, seed="closing")


def test_a_broker_without_the_secret_is_left_alone_and_knows_why() -> None:
    async def scenario(cluster: Cluster) -> None:
        *others, lone = cluster.machines
        for host in others:
            host.secret = shared(OLD)
        await cluster.start()
        await cluster.until(
            "the operator can read it",
            lambda: (
                "cluster secret" in others[0].replica.status().message
                or "challenge" in others[0].replica.status().message
            ),
        )
        await asyncio.sleep(5.0)

        assert not any(peer.connected for peer in lone.replica.status().peers.values())

    simulate(scenario, seed="without", checked=False)


def _all_connected(cluster: Cluster) -> bool:
    return all(
        peer.connected
        for host in cluster.machines
        if host.up
        for peer in host.replica.status().peers.values()
    )


async def test_brokers_with_a_secret_agree_over_real_sockets(tmp_path: Path) -> None:
    path = tmp_path / "cluster-secret"
    secret.draw(path)
    async with real_cluster(tmp_path, secret=ClusterSecret(path)) as cluster:
        assert isinstance(cluster, RealCluster)
        index = await cluster.put(b"behind a closed port")

        histories = await cluster.settle()

        assert all(history[index - 1][2] == b"behind a closed port" for history in histories)


# ---------------------------------------------------------------------- the file


def test_a_secret_is_drawn_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "cluster-secret"

    assert secret.draw(path)
    first = path.read_bytes()
    assert not secret.draw(path)

    assert path.read_bytes() == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["cluster-secret"]
    [key] = ClusterSecret(path).keys
    assert len(key) >= CHARS_MIN
    assert secret.draw(tmp_path / "another")
    assert ClusterSecret(tmp_path / "another").keys != (key,)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds 0 lines"),
        (b"short\n", "line 1 of"),
        (b"x" * 40 + b"\n" + b"short\n", "line 2 of"),
        (b"x" * 2000, "line 1 of"),
        (b"\n".join([b"x" * 40] * 3), "holds 3 lines"),
        (b"x" * 100_000, "lines"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused_without_showing_it(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "cluster-secret"
    path.write_bytes(content)

    with pytest.raises(StartError, match="cluster_secret_file: ") as raised:
        ClusterSecret(path)

    assert said in str(raised.value)
    assert "xxxx" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"none cannot be read: No such file.*draw-secret"):
        ClusterSecret(tmp_path / "none")


def test_a_file_is_read_again_and_one_that_is_not_valid_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cluster-secret"
    secret.draw(path)
    held = ClusterSecret(path)
    [first] = held.keys
    path.write_bytes(first + b"\n" + b"y" * 40 + b"\n")
    held.reload()
    assert held.keys == (first, b"y" * 40)

    path.write_bytes(b"")
    with pytest.raises(StartError):
        held.reload()

    assert held.keys == (first, b"y" * 40)
