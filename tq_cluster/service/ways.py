"""By which of its two ports a call is sent to another node.

Callers may take all the connections that a node's API has, and gRPC cannot tell them from nodes
before it has accepted them. So nodes send calls to one another by a separate listener, whose
address callers do not learn. It is used if a connection to it is established; otherwise the API is
used, as with nodes of earlier versions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tq_cluster.service.call import Header
from tq_cluster.service.links import Links
from tq_cluster.service.peer_authentication import PeerProof, Said, digest_of, marked

SHUN_S: Final = 1.0
"""How long the API is used after the other listener rejected this node's proof. Proofs are made
from the state, and the two nodes' states may differ while one is behind.
"""

KEEP_S: Final = 20.0
"""How often a call is made on an established connection: a listener closes idle ones later."""

ForwardAddress = Callable[[str], str | None]


class Ways:
    """Chooses the address for calls to another node."""

    def __init__(
        self,
        *,
        node_id: str,
        forward_address: ForwardAddress,
        links: Links,
        proof: PeerProof,
        now_s: Callable[[], float],
    ) -> None:
        """``forward_address`` returns a node's listener for nodes; None if it announced none."""
        self._node_id = node_id
        self._forward_address = forward_address
        self._links = links
        self._proof = proof
        self._now_s = now_s
        self._shunned_until_s: dict[str, float] = {}
        self._known: dict[str, str] = {}

    def to(self, node_id: str, api: str) -> str:
        """Return the address for calls to that node, whose API is at ``api``."""
        address = self._current(node_id)
        if address is None:
            return api
        if self._now_s() < self._shunned_until_s.get(node_id, float("-inf")):
            return api
        return address if self._links.ready(address) else api

    def shun(self, node_id: str) -> None:
        """Note that a node's listener for nodes rejected this node's proof."""
        self._shunned_until_s[node_id] = self._now_s() + SHUN_S

    def keep(self, node_id: str) -> bool:
        """Try to connect to that node's listener; return whether a connection is established."""
        address = self._current(node_id)
        return address is not None and self._links.ready(address)

    def _current(self, node_id: str) -> str | None:
        address = self._forward_address(node_id)
        before = self._known.get(node_id)
        if address is not None and address != before:
            self._known[node_id] = address
            if before is not None:  # it was restarted, and has another port
                self._links.forget(before)
        return address

    async def own_metadata(self, path: str, raw: bytes) -> list[tuple[str, str]]:
        """Return the metadata that proves that a call of no caller comes from a node."""
        said = Said(
            principal="",
            path=path,
            hop=self._node_id,
            elapsed=marked(0),
            digest=await digest_of(raw),
        )
        metadata = [
            (Header.HOP, said.hop),
            (Header.ELAPSED_MS, said.elapsed),
            (Header.DIGEST, said.digest),
        ]
        proof = self._proof.sign(said)
        return [*metadata, (Header.PEER_PROOF, proof)] if proof else metadata
