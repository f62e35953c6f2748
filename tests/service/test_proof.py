"""What a node that forwards says of a call is believed only from a broker of the cluster."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.service.older import older_believes, older_proof
from tests.simulation.world.host import DrawnSecret
from tq_cluster.service import peer_authentication
from tq_cluster.service.peer_authentication import (
    DIGEST_BYTES,
    HASHED_HERE_BYTES_MAX,
    PeerProof,
    Said,
    digest_of,
    marked,
)

CALL = Said(
    principal="alice",
    path="/tq.v1.TaskService/Submit",
    request_id="request-1",
    hop="n2",
    elapsed=marked(7),
    digest="d" * 64,
)
IN_SHOP = replace(CALL, namespace="shop", principal="shop/alice")
OLDER = replace(CALL, elapsed="7", digest="")
"""As a broker of an earlier version says it."""
MEMBERS = ("c1", {"n1": "disk 1", "n2": "disk 2"})
OLD, NEW = b"the old secret", b"the new secret"


def proof(*keys: bytes, required: bool = True) -> PeerProof:
    secret = DrawnSecret(random.Random(1), keys, required) if keys else None
    return PeerProof(lambda: MEMBERS, secret)


def believes(one: PeerProof, other: PeerProof) -> bool:
    signed = other.sign(CALL)
    assert signed is not None
    return one.holds(signed, CALL)


def older_fields(said: Said) -> Sequence[str]:
    return said.principal, said.path, said.request_id, said.hop, said.elapsed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(proof(), proof(), id="without a secret"),
        pytest.param(proof(OLD), proof(OLD), id="with the same"),
        pytest.param(proof(OLD), proof(OLD, NEW), id="while a new one is added"),
        pytest.param(proof(OLD), proof(NEW, OLD), id="in either order"),
        pytest.param(proof(OLD, NEW), proof(NEW), id="while the old one is taken away"),
        pytest.param(proof(), proof(OLD, required=False), id="while not all have one"),
        pytest.param(proof(), proof(OLD, NEW, required=False), id="with two, not all have one"),
        pytest.param(proof(OLD), proof(OLD, required=False), id="as it becomes required"),
    ],
)
def test_brokers_that_belong_together_believe_each_other(one: PeerProof, other: PeerProof) -> None:
    assert believes(one, other)
    assert believes(other, one)


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(proof(), id="that knows the members' disks alone"),
        pytest.param(proof(NEW), id="that holds another secret"),
    ],
)
def test_with_a_secret_no_one_is_believed_that_does_not_hold_it(stranger: PeerProof) -> None:
    assert not believes(proof(OLD), stranger)


@pytest.mark.parametrize(
    "other",
    [
        replace(CALL, principal="bob"),
        replace(CALL, namespace="shop"),
        replace(CALL, path="/tq.v1.QueueService/PurgeQueue"),
        replace(CALL, request_id="request-2"),
        replace(CALL, hop="n1"),
        replace(CALL, elapsed=marked(8)),
        replace(CALL, digest="e" * 64),
        replace(CALL, digest=""),
        replace(CALL, elapsed="7"),
        replace(CALL, elapsed="7", digest=""),
    ],
)
def test_a_proof_is_of_one_call_alone(other: Said) -> None:
    signed = proof(OLD).sign(CALL)
    assert signed is not None

    assert proof(OLD).holds(signed, CALL)
    assert not proof(OLD).holds(signed, other)


@pytest.mark.parametrize("forged", ["", ",", "x" * 100_000, "é" * 64, "0" * 64])
def test_what_is_no_proof_is_not_believed(forged: str) -> None:
    assert not proof(OLD).holds(forged, CALL)
    assert not proof(OLD).holds(forged, OLDER)


def test_before_the_cluster_is_formed_there_is_no_proof() -> None:
    unformed = PeerProof(lambda: None, None)

    assert unformed.sign(CALL) is None
    assert not unformed.holds("", CALL)


# ---------------------------------------------------------------- beside older brokers


@pytest.mark.parametrize("secret", [b"", OLD], ids=["without a secret", "with one"])
def test_an_older_broker_believes_a_call_in_the_default_namespace(secret: bytes) -> None:
    signed = (proof(secret) if secret else proof()).sign(CALL)
    assert signed is not None

    assert older_believes(MEMBERS, secret, signed, older_fields(CALL))
    assert int(CALL.elapsed) == 7, "it reads the time as before"


def test_an_older_broker_believes_a_sender_with_two_secrets_that_not_all_have() -> None:
    signed = proof(OLD, NEW, required=False).sign(CALL)
    assert signed is not None

    for secret in (b"", OLD, NEW):
        assert older_believes(MEMBERS, secret, signed, older_fields(CALL))


def test_an_older_broker_finds_no_proof_for_a_call_in_another_namespace() -> None:
    """It would run the call in the default one: it knows of no other."""
    signed = proof(OLD).sign(IN_SHOP)
    assert signed is not None

    assert proof(OLD).holds(signed, IN_SHOP)
    assert not older_believes(MEMBERS, OLD, signed, older_fields(IN_SHOP))


@pytest.mark.parametrize("secret", [b"", OLD], ids=["without a secret", "with one"])
def test_an_older_broker_is_believed_in_the_default_namespace(secret: bytes) -> None:
    ours = proof(secret) if secret else proof()

    assert ours.holds(older_proof(MEMBERS, secret, older_fields(OLDER)), OLDER)
    start = replace(OLDER, elapsed="0")
    assert ours.holds(older_proof(MEMBERS, secret, older_fields(start)), start)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(replace(OLDER, namespace="shop"), id="in another namespace"),
        pytest.param(replace(OLDER, digest="d" * 64), id="with a digest that it does not cover"),
        pytest.param(replace(CALL, digest=""), id="if the sender makes the newer one"),
        pytest.param(CALL, id="in place of the newer one"),
    ],
)
def test_the_older_proof_does_not_do_where_the_newer_one_is_demanded(said: Said) -> None:
    older = older_proof(MEMBERS, OLD, older_fields(said))

    assert not proof(OLD).holds(older, said)


# ---------------------------------------------------------------- the digest of the request


@pytest.mark.parametrize("size", [0, HASHED_HERE_BYTES_MAX, HASHED_HERE_BYTES_MAX + 1])
async def test_a_large_request_is_hashed_in_another_thread(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    digest = peer_authentication._digest

    def noted(raw: bytes) -> str:
        threads.append(threading.current_thread())
        return digest(raw)

    monkeypatch.setattr(peer_authentication, "_digest", noted)
    raw = bytes(size)

    expected = hashlib.blake2b(raw, digest_size=DIGEST_BYTES).hexdigest()
    assert await digest_of(raw) == expected
    here = threads == [threading.current_thread()]
    assert here == (size <= HASHED_HERE_BYTES_MAX)


def test_a_change_of_members_or_secrets_counts_at_once() -> None:
    members = {"n1": "disk 1", "n2": "disk 2"}
    secret = DrawnSecret(random.Random(1), (OLD,))
    ours = PeerProof(lambda: ("c1", members), secret)
    first = ours.sign(CALL)
    assert first is not None
    assert ours.holds(first, CALL)

    members["n2"] = "another disk"
    assert not ours.holds(first, CALL)
    members["n2"] = "disk 2"
    assert ours.holds(first, CALL)
    secret.keys = (NEW,)
    assert not ours.holds(first, CALL)
