"""The entrance of every call: who calls, for which namespace, until when; and what it then holds.

A call comes by itself or in a conversation, from a caller or from a node that forwards it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import grpc.aio

from tq_cluster.core.kernel.refusals import no_such_namespace
from tq_cluster.core.kernel.validation import check_namespace_name
from tq_cluster.core.model.namespaces import ONLY_DEFAULT, Namespaces
from tq_cluster.core.model.operations import Caller
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, Principal
from tq_cluster.raft import bounds
from tq_cluster.service import errors
from tq_cluster.service.admission import Admission, Held, caller_of
from tq_cluster.service.authorization import Authenticate, authenticate
from tq_cluster.service.call import (
    Call,
    ConversationMethod,
    Header,
    Method,
    StreamMethod,
    certain_s,
    margin_s,
    number_in,
)
from tq_cluster.service.links import metadata_of
from tq_cluster.service.peer_authentication import PeerProof, Said, principal_in
from tq_common.limits import TERM_MAX

Context = grpc.aio.ServicerContext[bytes, bytes]

HOP_S_MAX = 3600.0
"""The longest time that a call counts as in the cluster, even if a node reports more."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A call as it arrives, by itself or in a conversation."""

    metadata: Mapping[str, str]
    remaining_s: float | None
    """None for a caller that gave no deadline."""
    peer: str
    """As gRPC names it: address and port."""

    @classmethod
    def of(cls, context: Context) -> Arrival:
        """Read a call that was made by itself."""
        # The published types do not say that the time is None for a caller without a deadline.
        return cls(
            metadata_of(context.invocation_metadata()), context.time_remaining(), context.peer()
        )


class Entrance:
    """Makes calls of what arrives."""

    def __init__(
        self,
        *,
        term: Callable[[], int],
        proof: PeerProof,
        admission: Admission,
        authenticate: Authenticate = authenticate,
        namespaces: Namespaces = ONLY_DEFAULT,
    ) -> None:
        """``term`` returns the term that this node has reached."""
        self._term = term
        self._proof = proof
        self._admission = admission
        self._authenticate = authenticate
        self._namespaces = namespaces
        self._loop = asyncio.get_running_loop()

    def admit(
        self,
        method: Method | StreamMethod | ConversationMethod,
        path: str,
        arrival: Arrival,
        *,
        from_nodes: bool = False,
    ) -> tuple[Call, Held]:
        """Return the call, and what it holds of this node; CallError if it may not come in.

        ``from_nodes``: it came by the listener that only nodes may call.
        """
        metadata = arrival.metadata
        now_s = self._loop.time()
        remaining_s = arrival.remaining_s
        left_s = method.default_deadline_s if remaining_s is None else certain_s(remaining_s)
        margin = margin_s(left_s)
        request_id = metadata.get(Header.REQUEST_ID, "")
        min_term = self._min_term(metadata)
        namespace = self._namespace(metadata)
        said = Said(
            principal=metadata.get(Header.PRINCIPAL, ""),
            namespace=metadata.get(Header.NAMESPACE, ""),
            path=path,
            request_id=request_id,
            hop=metadata.get(Header.HOP, ""),
            elapsed=metadata.get(Header.ELAPSED_MS, ""),
            digest=metadata.get(Header.DIGEST, ""),
        )
        hop, principal, elapsed_s = self._sender(said, metadata)
        if from_nodes and not hop:
            raise errors.unauthenticated("this port is for the cluster's own nodes: use the API's")
        caller = f"node:{hop}" if hop else caller_of(arrival.peer)
        held = self._admission.admit(caller, method.policy)
        return Call(
            path=path,
            caller=Caller(
                principal=principal,
                namespace=namespace,
                traceparent=metadata.get(Header.TRACEPARENT, ""),
            ),
            received_s=now_s - elapsed_s,
            arrived_s=now_s,
            answer_by_s=now_s + left_s - margin,
            cut_s=now_s + left_s - margin / 2,
            holds=partial(self._admission.reserve, held),
            hop=hop,
            # A call that claims to be forwarded is not forwarded again, with or without a proof.
            no_forward=Header.NO_FORWARD in metadata or Header.HOP in metadata,
            min_term=min_term,
            request_id=request_id,
            client=metadata.get(Header.CLIENT, ""),
            namespace=said.namespace if namespace != DEFAULT_NAMESPACE else "",
            digest=said.digest if hop else "",
        ), held

    def _namespace(self, metadata: Mapping[str, str]) -> int:
        """Return the number of the namespace that a call is for; CallError if there is none."""
        name = metadata.get(Header.NAMESPACE, "")
        if not name:
            return DEFAULT_NAMESPACE
        fault = check_namespace_name(Header.NAMESPACE, name)
        if fault is not None:
            raise errors.refusal(fault)
        number = self._namespaces.number_of(name)
        if number is None:
            raise errors.refusal(no_such_namespace(Header.NAMESPACE, name))
        return number

    def _min_term(self, metadata: Mapping[str, str]) -> int:
        """Return the term that the caller has heard of; CallError if no broker reached it."""
        text = metadata.get(Header.MIN_TERM, "")
        min_term = number_in(metadata, Header.MIN_TERM)
        if not min_term and text.strip("0").isdecimal():
            min_term = TERM_MAX  # too long to be read
        flaw = bounds.flaw_in_term(min_term, self._term() or None)
        if flaw is not None:
            raise errors.no_leader(f"{Header.MIN_TERM}: {flaw}")
        return min_term

    def _sender(self, said: Said, metadata: Mapping[str, str]) -> tuple[str, Principal, float]:
        """Return a call's forwarding node, its caller, and its seconds in the cluster.

        A node's assertions count if it proves to be one. Without a proof a call counts as its
        sender's own; so does that of a node of an earlier version, which proves nothing for an
        anonymous caller.
        """
        proof = metadata.get(Header.PEER_PROOF, "")
        if said.hop and proof and self._proof.holds(proof, said):
            elapsed_s = min(number_in(metadata, Header.ELAPSED_MS) / 1000, HOP_S_MAX)
            return said.hop, Principal(principal_in(said.namespace, said.principal)), elapsed_s
        if said.principal:
            shown = said.principal[:64]
            raise errors.unauthenticated(f"only nodes may say that a call is {shown!r}'s")
        return "", self._authenticate(metadata), 0.0
