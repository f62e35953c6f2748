"""What a node holds for its callers: calls, bytes of requests and bytes of replies.

Each is bounded in total and shared between the callers' addresses, so that neither all callers
together nor one alone can exhaust the memory of the process. A call counts until its caller has
read the answer, however slowly. What does not fit is refused with OVERLOADED, which names the
limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Network
from typing import TYPE_CHECKING

from tq_cluster.service import errors
from tq_cluster.service.intake import Intake, SlowRequestError
from tq_cluster.service.policy import Policy
from tq_cluster.service.shares import Shared
from tq_cluster.service.wire import RefusedRequestError, check

if TYPE_CHECKING:
    from collections.abc import Awaitable

LONG_POLL_SHARE = 0.75
"""Share of long polls in the calls: the rest is for calls answered at once, such as reports."""
SPARE_SHARE = 1 / 8
"""Share beyond the limit on calls: for addresses that hold few, once others hold all of it."""
FEW_SHARE = 1 / 16
REQUEST_BYTES_MAX = 32 << 20
"""Bytes of requests that wait for their answers. Each byte costs about eight: received, parsed,
decided, in the entry, in the journal's and both followers' buffers, and in the state.
"""
REPLY_BYTES_MAX = 48 << 20
"""Bytes of replies that their callers have not read. Each byte costs about two: ours and gRPC's."""
SMALL_BYTES = 4 << 10
"""Smaller messages are not counted: the limit on calls bounds them."""


@dataclass(slots=True, eq=False)
class Held:
    """What a node holds for one call."""

    caller: str
    long_poll: bool
    request_bytes: int = 0
    reply_bytes: int = 0
    cuts: list[int] = field(default_factory=list)
    """The offsets at which the request may be cut to be parsed."""


class Admission:
    """Decides which calls a node takes, and counts what it holds for them."""

    def __init__(self, calls_max: int) -> None:
        self._calls_max = calls_max
        self._calls_few = int(calls_max * FEW_SHARE)
        self._calls = Shared("calls", calls_max + int(calls_max * SPARE_SHARE))
        self._long_polls = Shared("long_polls", max(1, int(calls_max * LONG_POLL_SHARE)))
        self._requests = Shared("request_bytes", REQUEST_BYTES_MAX)
        self._replies = Shared("reply_bytes", REPLY_BYTES_MAX)
        self._intake = Intake()

    @property
    def calls(self) -> int:
        """Calls held now."""
        return self._calls.held

    @property
    def reading(self) -> int:
        """Requests that are being read now."""
        return self._intake.reading

    @property
    def request_bytes(self) -> int:
        """Bytes of requests that wait for their answers."""
        return self._requests.held

    @property
    def reply_bytes(self) -> int:
        """Bytes of replies that their callers have not read."""
        return self._replies.held

    def refused(self) -> dict[str, int]:
        """How many calls were refused so far, by limit."""
        shared = (self._calls, self._long_polls, self._requests, self._replies)
        return {
            **{each.name: each.refused for each in shared},
            "request_read_time": self._intake.cut_off,
        }

    def admit(self, caller: str, policy: Policy) -> Held:
        """Take a call, or raise CallError; ``end`` releases it."""
        calls = self._calls
        crowded = calls.held >= self._calls_max
        if crowded and (calls.of(caller) >= self._calls_few or calls.held >= calls.limit):
            calls.refused += 1
            raise errors.overloaded(self._calls_max)
        if policy.long_poll and not self._long_polls.take(caller, 1):
            raise self._full(self._long_polls)
        calls.add(caller, 1)
        return Held(caller, policy.long_poll)

    async def read(
        self,
        held: Held,
        policy: Policy,
        receive: Callable[[], Awaitable[bytes]],
        until_s: float,
        connection: str = "",
    ) -> bytes:
        """Read a call's request; CallError if it exceeds its limits."""
        try:
            raw = await self._intake.read(held.caller, receive, until_s, connection)
        except SlowRequestError as error:
            raise errors.overloaded_by("request_read_time", str(error)) from None
        if not isinstance(raw, bytes):
            raise errors.no_request()  # the caller has closed its side without one
        await self.take(held, policy, raw)
        return raw

    async def take(self, held: Held, policy: Policy, raw: bytes) -> None:
        """Hold a call's request until it is answered; CallError if it exceeds its limits."""
        size = len(raw)
        if size > policy.request_bytes_max:
            raise errors.request_too_large(size, policy.request_bytes_max)
        if size > SMALL_BYTES:
            if not self._requests.take(held.caller, size):
                raise self._full(self._requests)
            held.request_bytes = size
        try:
            held.cuts = await check(raw, policy.rules)
        except RefusedRequestError as error:
            raise errors.refusal(error.refused) from None

    def answered(self, held: Held) -> None:
        """Release a call's request: its reply is made."""
        if held.request_bytes:
            self._requests.give_back(held.caller, held.request_bytes)
            held.request_bytes = 0

    def reserve(self, held: Held, size: int) -> None:
        """Reserve room for a reply of up to ``size`` bytes, before it is made; else CallError."""
        more = size - held.reply_bytes
        if size <= SMALL_BYTES or more <= 0:
            return
        if not self._replies.take(held.caller, more):
            raise self._full(self._replies)
        held.reply_bytes = size

    def reply(self, held: Held, size: int, *, must: bool) -> None:
        """Hold a reply until the call's end; CallError if it does not fit and not ``must``.

        If room was reserved for the reply, its actual size replaces the reservation. A reply that
        became larger meanwhile, as a task that has got its result, has to fit like any other.
        """
        kept = held.reply_bytes
        if kept:
            self._replies.give_back(held.caller, kept)
            held.reply_bytes = 0
        if size <= SMALL_BYTES:
            return
        if must or size <= kept:
            self._replies.add(held.caller, size)
        elif not self._replies.take(held.caller, size):
            raise self._full(self._replies)
        held.reply_bytes = size

    def check_reply(self, held: Held, size: int) -> None:
        """Raise CallError if a reply of that size would not fit."""
        if not self._replies.fits(held.caller, size):
            self._replies.refused += 1
            raise self._full(self._replies)

    def end(self, held: Held) -> None:
        """Release a call: its caller has its answer, or is gone."""
        self.answered(held)
        if held.reply_bytes:
            self._replies.give_back(held.caller, held.reply_bytes)
            held.reply_bytes = 0
        if held.long_poll:
            self._long_polls.give_back(held.caller, 1)
        self._calls.give_back(held.caller, 1)

    @staticmethod
    def _full(shared: Shared) -> errors.CallError:
        return errors.overloaded_by(
            shared.name,
            f"this node holds {shared.held:,} {shared.name} of the {shared.limit:,} that it takes,"
            " and this caller its share of them",
            shared.limit,
        )


def caller_of(peer: str) -> str:
    """Return the caller that a call counts for: the address in gRPC's ``peer`` without port."""
    address = peer.rpartition(":")[0] or peer
    return _network(address) if address.startswith("ipv6:") else address


@lru_cache(maxsize=4096)
def _network(address: str) -> str:
    host = address.removeprefix("ipv6:").replace("%5B", "").replace("%5D", "").strip("[]")
    try:
        # A host may use any number of addresses in its network (RFC 4291, section 2.5.1).
        return str(IPv6Network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
