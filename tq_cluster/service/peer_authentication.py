"""How a node that forwards a call proves whose call it is, and since when it is on its way.

The key is derived from the cluster's secret and the replicated membership. Without a secret it is
derived from the members' incarnations alone, which the raft port tells only to members; a backup
holds them, too, so anyone who may make one can pass for a node. A proof covers principal, method,
request id, the node that forwards and how long the call has been on its way, so it cannot be used
for another caller or another time. It hides nothing: the nodes' connections are not encrypted, so
anyone who can read the traffic between nodes can repeat what was read.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

Membership = tuple[str, Mapping[str, str]]
"""The cluster id, and each member's incarnation by node id."""

_PURPOSE: Final = b"tq forwarded principal 1"
_PROOF_CHARS_MAX: Final = 512
"""Longer than three proofs."""


class Secret(Protocol):
    """The secret that the brokers share."""

    @property
    def keys(self) -> Sequence[bytes]:
        """Return one key, or two that are both valid."""

    @property
    def required(self) -> bool:
        """Return whether every broker must have it."""


class PeerProof:
    """Signs what this node asserts about its callers, and checks what other nodes assert."""

    def __init__(
        self, membership: Callable[[], Membership | None], secret: Secret | None = None
    ) -> None:
        """``membership`` is called each time; None means the cluster is not formed here."""
        self._membership = membership
        self._secret = secret

    def sign(self, *said: str) -> str | None:
        """Return the proof of what this node asserts of a call; None while it cannot make one.

        It holds one proof for each secret, joined by commas, as the other node may hold only one of
        the secrets.
        """
        made = self._proofs(said)
        return ",".join(made) if made else None

    def holds(self, proof: str, *said: str) -> bool:
        """Whether a member of this very cluster made ``proof`` of what is ``said``."""
        if len(proof) > _PROOF_CHARS_MAX:
            return False
        expected = self._proofs(said)
        given = [each.encode() for each in proof.split(",")]
        return any(hmac.compare_digest(mine.encode(), each) for mine in expected for each in given)

    def _keys(self) -> Sequence[bytes]:
        """Return the secrets that count; an empty one stands for the membership alone."""
        if self._secret is None:
            return (b"",)
        # A broker that has no secret yet can neither make nor check a proof that depends on one.
        return self._secret.keys if self._secret.required else (*self._secret.keys, b"")

    def _proofs(self, said: Sequence[str]) -> list[str]:
        membership = self._membership()
        if membership is None:
            return []
        cluster_id, incarnations = membership
        fields = [cluster_id]
        for node_id in sorted(incarnations):
            fields += [node_id, incarnations[node_id]]
        purpose, asserted = _PURPOSE + _join(fields), _join([*said])
        return [
            hmac.new(_derived(secret, purpose), asserted, hashlib.sha256).hexdigest()
            for secret in self._keys()
        ]


def _derived(secret: bytes, purpose: bytes) -> bytes:
    if not secret:
        return hashlib.sha256(purpose).digest()
    return hmac.new(secret, purpose, hashlib.sha256).digest()


def _join(fields: list[str]) -> bytes:
    """Join fields unambiguously: each after its length."""
    parts = [field.encode() for field in fields]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
