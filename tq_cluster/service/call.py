"""One call: its caller, its deadline, and what its metadata asks for."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from tq.v1 import task_service_pb2
from tq_cluster.core.kernel.validation import is_span
from tq_cluster.core.model.operations import Caller
from tq_cluster.service.policy import Policy, Repeat, policy_of
from tq_cluster.service.wire import field_bytes, values

MARGIN_SHARE = 0.1
MARGIN_S = 0.2
AGED_AFTER_S = 1.0
"""A call that is sent on later than this after it arrived has the time it spent here added to its
``retry_age``. Below it the margin of the window (30 s) covers the difference.
"""


class Header:
    """Metadata keys. HOP, ELAPSED_MS, PRINCIPAL and DIGEST count only with a proof."""

    CLIENT = "tq-client"
    NO_FORWARD = "tq-no-forward"
    MIN_TERM = "tq-min-term"
    REQUEST_ID = "x-request-id"
    TRACEPARENT = "traceparent"
    NAMESPACE = "tq-namespace"
    """The name of the namespace that the call is for; absent or empty for the default one."""
    HOP = "tq-hop"
    """The node that forwards the call: the next node does not forward it again."""
    ELAPSED_MS = "tq-elapsed-ms"
    """How long the call has been inside the cluster."""
    SERVED_MS = "tq-served-ms"
    """In the answer to a node: how long ago this node began on the call."""
    PRINCIPAL = "tq-principal"
    """Whose call it is. Outside the default namespace it begins with the namespace's name and a
    slash, for an anonymous caller, too: so a broker that knows no namespaces refuses the call.
    """
    DIGEST = "tq-digest"
    """The digest of the request, in hex."""
    PEER_PROOF = "tq-peer-proof"
    LEADER = "tq-leader"
    TERM = "tq-term"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is known of a call besides its request. Times are on the event loop's clock."""

    path: str
    caller: Caller
    received_s: float
    """When it arrived at the first node."""
    arrived_s: float
    """When it arrived at this node."""
    answer_by_s: float
    """Waiting ends here, so that an answer still reaches the caller before its deadline."""
    cut_s: float
    """Work ends here, so that at least an error reaches the caller before its deadline."""
    holds: Callable[[int], None]
    """Reserves so many bytes for the reply before it is made; CallError if they do not fit."""
    hop: str = ""
    no_forward: bool = False
    min_term: int = 0
    request_id: str = ""
    client: str = ""
    namespace: str = ""
    """The name of the caller's namespace; empty for the default one."""
    digest: str = ""
    """The digest that the request must have, if a node has proven it."""

    def wait_s(self, wait: Duration | None, longest_s: float) -> float:
        """Return how long from now a long poll may wait; ``wait`` None asks for the longest."""
        asked_s = longest_s if wait is None else min(wait.ToMilliseconds() / 1000, longest_s)
        now_s = asyncio.get_running_loop().time()
        return max(0.0, min(self.received_s + asked_s, self.answer_by_s) - now_s)


def margin_s(remaining_s: float) -> float:
    """Return how long before its deadline a call is answered."""
    return min(MARGIN_SHARE * remaining_s, MARGIN_S)


def certain_s(remaining_s: float) -> float:
    """Return the time that certainly remains: gRPC rounds a timeout up, in steps that grow."""
    step_s = 0.001
    while remaining_s > 1_000 * step_s:
        step_s *= 10
    return max(0.0, remaining_s - step_s)


def number_in(metadata: Mapping[str, str], key: str) -> int:
    """Return the count in a header; anything else counts as zero."""
    text = metadata.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0  # noqa: PLR2004  # below 2**63


class Place(enum.Enum):
    """Which node answers a method."""

    LEADER = "leader"
    ASKED = "asked"
    BY_READ_LEVEL = "by read level"
    """The asked node if the request's read_level is LOCAL, else the leader."""


Handler = Callable[[Any, Call], Awaitable[Message]]
Unheard = Callable[[Any, Any, Call], None]
StreamHandler = Callable[[Any, Call], AsyncGenerator[Message, None]]


class Undo(NamedTuple):
    """The call that releases what another call's reply has granted."""

    method: Method
    path: str
    request: Callable[[bytes, bytes], bytes]
    """Makes its request from the other call's request and reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of the API and how it is answered."""

    name: str
    request: type[Message]
    handle: Handler
    unheard: Unheard | None = None
    """Called with a reply that could not be sent to its caller, to release what it granted."""
    undo: Undo | None = None
    """The same for a reply that another node has made."""
    place: Place = Place.LEADER
    default_deadline_s: float = 30.0
    """For a caller that gives no deadline."""
    paced: bool = True
    """Held back if the leader is behind. Not so a long poll, which keeps its place for long, nor
    workers' reports of their tasks, which make room for others.
    """
    policy: Policy = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", policy_of(self.request, self.name))

    @property
    def repeat(self) -> Repeat:
        """When a call of this method may be repeated."""
        return self.policy.repeat

    @property
    def replies_large(self) -> bool:
        """Whether a reply may have megabytes, since it holds tasks. Such a reply may be refused."""
        return self.repeat is Repeat.READ or self.unheard is not None

    def answered_here(self, raw: bytes) -> bool:
        """Whether the asked node answers this call itself, leader or not."""
        if self.place is Place.BY_READ_LEVEL:
            return self._level(raw) == task_service_pb2.READ_LEVEL_LOCAL
        return self.place is Place.ASKED

    def repeatable(self, raw: bytes) -> bool:
        """Whether this call may be sent again although it may have been applied."""
        if self.repeat is Repeat.BY_REQUEST_ID:
            number = self.request.DESCRIPTOR.fields_by_name["request_id"].number
            return any(values(raw, number)[-1:])
        return self.repeat is not Repeat.NEVER

    def aged(self, raw: bytes, elapsed_s: float) -> bytes:
        """Return the request with the time it spent here added to its ``retry_age``."""
        described = self.request.DESCRIPTOR.fields_by_name.get("retry_age")
        if elapsed_s < AGED_AFTER_S or described is None:
            return raw
        age = Duration.FromString(b"".join(values(raw, described.number)))
        if not is_span(age):
            return raw  # refused by the node that decides it
        older = Duration()
        older.FromMicroseconds(age.ToMicroseconds() + int(elapsed_s * 1e6))
        # A repeated field message is merged into the first, number by number. A zero is not
        # encoded, so it would not replace the earlier number.
        nanos = older.nanos or 1
        older.nanos = nanos
        return raw + field_bytes(described.number, older.SerializeToString())

    def _level(self, raw: bytes) -> int:
        request: Any = self.request.FromString(raw)
        return int(request.read_level)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMethod:
    """One method of the API that the asked node answers with a stream, for as long as it takes."""

    name: str
    request: type[Message]
    handle: StreamHandler
    default_deadline_s: float = 3600.0
    """For a caller that gives no deadline. Nothing is cut off at it."""
    policy: Policy = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", policy_of(self.request, self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationMethod:
    """The method of the API that carries calls of others. Its policy is that of a message."""

    name: str
    request: type[Message]
    handle: Callable[[Any], Awaitable[None]]
    """Takes gRPC's context."""
    default_deadline_s: float = 3600.0
    """For a caller that gives no deadline. Nothing is cut off at it."""
    policy: Policy = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policy", policy_of(self.request, self.name))
