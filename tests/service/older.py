"""The proof of brokers of earlier versions: it covers neither the namespace nor the request."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from tq_cluster.service.peer_authentication import Membership

_PURPOSE = b"tq forwarded principal 1"


def older_proof(membership: Membership, secret: bytes, said: Sequence[str]) -> str:
    """The proof of principal, path, request id, hop and elapsed ms; b"": without a secret."""
    cluster_id, incarnations = membership
    fields = [cluster_id]
    for node_id in sorted(incarnations):
        fields += [node_id, incarnations[node_id]]
    purpose = _PURPOSE + _join(fields)
    if secret:
        key = hmac.new(secret, purpose, hashlib.sha256).digest()
    else:
        key = hashlib.sha256(purpose).digest()
    return hmac.new(key, _join(said), hashlib.sha256).hexdigest()


def older_believes(membership: Membership, secret: bytes, proof: str, said: Sequence[str]) -> bool:
    """Whether a broker of an earlier version takes ``proof``, several joined by commas."""
    return len(proof) <= 512 and older_proof(membership, secret, said) in proof.split(",")


def _join(fields: Sequence[str]) -> bytes:
    parts = [field.encode() for field in fields]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
