"""What a node that forwards says of its caller is believed only from a broker of the cluster."""

from __future__ import annotations

import random

import pytest

from tests.simulation.world.host import DrawnSecret
from tq_cluster.service.peer_authentication import PeerProof

CALL = ("alice", "/tq.v1.TaskService/Submit", "request-1")
MEMBERS = ("c1", {"n1": "disk 1", "n2": "disk 2"})
OLD, NEW = b"the old secret", b"the new secret"


def proof(*keys: bytes, required: bool = True) -> PeerProof:
    secret = DrawnSecret(random.Random(1), keys, required) if keys else None
    return PeerProof(lambda: MEMBERS, secret)


def believes(one: PeerProof, other: PeerProof) -> bool:
    signed = other.sign(*CALL)
    assert signed is not None
    return one.holds(signed, *CALL)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(proof(), proof(), id="without a secret"),
        pytest.param(proof(OLD), proof(OLD), id="with the same"),
        pytest.param(proof(OLD), proof(OLD, NEW), id="while a new one is added"),
        pytest.param(proof(OLD), proof(NEW, OLD), id="in either order"),
        pytest.param(proof(OLD, NEW), proof(NEW), id="while the old one is taken away"),
        pytest.param(proof(), proof(OLD, required=False), id="while not all have one"),
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


def test_a_proof_is_of_no_use_for_another_caller_method_or_request() -> None:
    signed = proof(OLD).sign(*CALL)
    assert signed is not None

    for place, other in enumerate(("bob", "/tq.v1.QueueService/PurgeQueue", "request-2")):
        call = [*CALL]
        call[place] = other
        assert not proof(OLD).holds(signed, *call)


@pytest.mark.parametrize("forged", ["", ",", "x" * 100_000, "é" * 64, "0" * 64])
def test_what_is_no_proof_is_not_believed(forged: str) -> None:
    assert not proof(OLD).holds(forged, *CALL)


def test_before_the_cluster_is_formed_there_is_no_proof() -> None:
    unformed = PeerProof(lambda: None, None)

    assert unformed.sign(*CALL) is None
    assert not unformed.holds("", *CALL)
