"""How a node that forwards a call proves what it says of it: whose it is, and since when.

The key is derived from what only the members of the formed cluster hold: the incarnations in the
replicated membership, which no API method shows. A proof covers principal, method, request id, the
node that forwards and how long the call has been on its way, so it cannot be turned into another
caller's or another time's. It does not hide anything: whoever can read the
traffic between nodes can repeat what was read, as the nodes' connections are not encrypted.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping

Membership = tuple[str, Mapping[str, str]]
"""The cluster id, and each member's incarnation by node id."""

_PURPOSE = b"tq forwarded principal 1"


class PeerProof:
    """Signs what this node asserts of its callers, and checks what other nodes assert."""

    def __init__(self, membership: Callable[[], Membership | None]) -> None:
        """``membership`` is asked each time: None while the cluster is not formed here."""
        self._membership = membership

    def sign(self, *said: str) -> str | None:
        """The proof of what this node says of a call, or None while it cannot make one."""
        membership = self._membership()
        if membership is None:
            return None
        cluster_id, incarnations = membership
        fields = [cluster_id]
        for node_id in sorted(incarnations):
            fields += [node_id, incarnations[node_id]]
        key = hashlib.sha256(_PURPOSE + _join(fields)).digest()
        return hmac.new(key, _join([*said]), hashlib.sha256).hexdigest()

    def holds(self, proof: str, *said: str) -> bool:
        """Whether a member of this very cluster made ``proof`` of what is ``said``."""
        expected = self.sign(*said)
        return expected is not None and hmac.compare_digest(expected.encode(), proof.encode())


def _join(fields: list[str]) -> bytes:
    """Unambiguous: each field after its length."""
    parts = [field.encode() for field in fields]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
