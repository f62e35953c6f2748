"""How a node that forwards a call proves whose call it is, its request, and its time so far.

The key is derived from the cluster's secret and the replicated membership. Without a secret it is
derived from the members' incarnations alone, which the raft port tells only to members; a backup
holds them, too, so anyone who may make one can pass for a node. A proof covers principal,
namespace, method, request id, the digest of the request, the node that forwards and how long the
call has been on its way, so it cannot be used for another caller, another request or another time.
It hides nothing: the nodes' connections are not encrypted, so anyone who can read the traffic
between nodes can repeat what was read.

Brokers of earlier versions make and check an older proof, which covers neither the namespace nor
the request. So a call in the default namespace carries both proofs, and from such a broker the
older one is taken. A sender that makes the newer proof marks the time that both cover: without the
newer proof nothing is believed that bears the mark, so the newer one cannot be taken away. A call
in another namespace carries the newer proof alone, and names the namespace before its principal:
an older broker finds no proof that it knows, and refuses the call.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

Membership = tuple[str, Mapping[str, str]]
"""The cluster id, and each member's incarnation by node id."""

_PURPOSE: Final = b"tq forwarded call 2"
_OLDER_PURPOSE: Final = b"tq forwarded principal 1"
_PROOF_CHARS_MAX: Final = 512
"""Longer than seven proofs. Earlier versions have the same limit."""
_MARK: Final = "0"
"""Before the time: its sender makes the newer proof. The number stays the same."""
DIGEST_BYTES: Final = 32
HASHED_HERE_BYTES_MAX: Final = 1 << 20
"""A larger request is hashed in another thread, so that the loop goes on: 10 MiB take 12 ms or
more. Smaller ones are not: handing them over and back takes longer than hashing them.
"""


class Secret(Protocol):
    """The secret that the brokers share."""

    @property
    def keys(self) -> Sequence[bytes]:
        """Return one key, or two that are both valid."""

    @property
    def required(self) -> bool:
        """Return whether every broker must have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a node that forwards a call says of it, as its metadata has it."""

    principal: str
    namespace: str = ""
    """Its name; empty for the default one."""
    path: str
    request_id: str = ""
    hop: str
    """The node that forwards."""
    elapsed: str
    """How many ms the call has been inside the cluster: a number, marked or not."""
    digest: str = ""
    """That of the request, in hex. Empty: a broker of an earlier version sent the call."""

    @property
    def newer(self) -> bool:
        """Whether only the newer proof counts: older brokers know nothing of what it says."""
        return bool(self.namespace or self.digest or is_marked(self.elapsed))


class PeerProof:
    """Signs what this node asserts about its callers, and checks what other nodes assert."""

    def __init__(
        self, membership: Callable[[], Membership | None], secret: Secret | None = None
    ) -> None:
        """``membership`` is called each time; None means the cluster is not formed here."""
        self._membership = membership
        self._secret = secret
        self._made_of: tuple[str, Mapping[str, str], Sequence[bytes]] | None = None
        """The cluster, its members and the secrets that the derived keys are made of."""
        self._derived: dict[bytes, Sequence[bytes]] = {}
        """The keys by purpose, one for each secret."""

    def sign(self, said: Said) -> str | None:
        """Return the proof of what this node says of a call; None while it cannot make one.

        It holds one proof for each secret, joined by commas, as the other node may hold only one of
        the secrets; and for a call in the default namespace also the older ones.
        """
        assert said.digest, "a proof is of a request"
        assert is_marked(said.elapsed), "the time shows that the sender makes this proof"
        membership = self._membership()
        if membership is None:
            return None
        made = self._proofs(membership, said)
        if not said.namespace:
            made += self._older_proofs(membership, said)
        return ",".join(made)

    def holds(self, proof: str, said: Said) -> bool:
        """Whether a member of this very cluster made ``proof`` of what is ``said``."""
        membership = self._membership()
        if membership is None or len(proof) > _PROOF_CHARS_MAX:
            return False
        make = self._proofs if said.newer else self._older_proofs
        expected = make(membership, said)
        given = [each.encode() for each in proof.split(",")]
        return any(hmac.compare_digest(mine.encode(), each) for mine in expected for each in given)

    def _keys(self) -> Sequence[bytes]:
        """Return the secrets that count; an empty one stands for the membership alone."""
        if self._secret is None:
            return (b"",)
        # A broker that has no secret yet can neither make nor check a proof that depends on one.
        return self._secret.keys if self._secret.required else (*self._secret.keys, b"")

    def _proofs(self, membership: Membership, said: Said) -> list[str]:
        asserted = (said.namespace, *_older(said), said.digest)
        return self._signed(_PURPOSE, membership, asserted)

    def _older_proofs(self, membership: Membership, said: Said) -> list[str]:
        return self._signed(_OLDER_PURPOSE, membership, _older(said))

    def _signed(self, purpose: bytes, membership: Membership, said: Sequence[str]) -> list[str]:
        asserted = _join(said)
        keys = self._derived_keys(purpose, membership)
        return [hmac.digest(key, asserted, "sha256").hex() for key in keys]

    def _derived_keys(self, purpose: bytes, membership: Membership) -> Sequence[bytes]:
        """Return the keys for a purpose, made again once the members or the secrets change."""
        cluster_id, incarnations = membership
        secrets = tuple(self._keys())
        if self._made_of != (cluster_id, incarnations, secrets):
            self._made_of = cluster_id, dict(incarnations), secrets
            self._derived.clear()
        keys = self._derived.get(purpose)
        if keys is None:
            fields = [cluster_id]
            for node_id in sorted(incarnations):
                fields += [node_id, incarnations[node_id]]
            whole = purpose + _join(fields)
            keys = self._derived[purpose] = [_derived(secret, whole) for secret in secrets]
        return keys


def said_principal(namespace: str, principal: str) -> str:
    """Return a principal as a node that forwards its call says it."""
    return f"{namespace}/{principal}" if namespace else principal


def principal_in(namespace: str, said: str) -> str:
    """Return the principal in what a node has said and proven."""
    return said.removeprefix(f"{namespace}/") if namespace else said


def marked(elapsed_ms: int) -> str:
    """Return a time with the mark of a node that makes the newer proof."""
    return f"{_MARK}{elapsed_ms}"


def is_marked(elapsed: str) -> bool:
    """Whether a time has the mark. Senders of earlier versions write 0 as one digit."""
    return len(elapsed) > 1 and elapsed.startswith(_MARK)


async def digest_of(raw: bytes) -> str:
    """Return the digest of a request's bytes, in hex."""
    if len(raw) <= HASHED_HERE_BYTES_MAX:
        return _digest(raw)
    return await asyncio.get_running_loop().run_in_executor(None, _digest, raw)


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=DIGEST_BYTES).hexdigest()


def _older(said: Said) -> Sequence[str]:
    """Return the fields of the older proof."""
    return said.principal, said.path, said.request_id, said.hop, said.elapsed


def _derived(secret: bytes, purpose: bytes) -> bytes:
    if not secret:
        return hashlib.sha256(purpose).digest()
    return hmac.digest(secret, purpose, "sha256")


def _join(fields: Sequence[str]) -> bytes:
    """Join fields unambiguously: each after its length."""
    parts = [field.encode() for field in fields]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
