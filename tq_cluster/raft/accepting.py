"""Accepts connections on a port that unadmitted nodes can reach, at a limited rate per address.

A connection above the rate is closed before it gets a protocol. If no descriptor is left, accepting
pauses: accepted connections go on, and the log says so once a minute.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tq_cluster.telemetry.sparing import Sparing
from tq_process.accepting import Acceptor

_logger = logging.getLogger(__name__)

ADDRESSES_MAX: Final = 1024


Refused = Callable[[Literal["rate", "descriptors"]], None]


def ignored(_reason: object) -> None:
    """Do not count refused connections."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_s: float

    def take(self, now_s: float, a_second: float, burst: float) -> bool:
        self.tokens = min(burst, self.tokens + (now_s - self.filled_s) * a_second)
        self.filled_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class AcceptRates:
    """Limits how fast connections may come: from one address, from a peer's, from all others."""

    A_SECOND: Final = 20.0
    FROM_PEERS_A_SECOND: Final = 200.0
    """Brokers on the same machine as a client that floods them must still find each other."""
    ALTOGETHER_A_SECOND: Final = 400.0
    BURST_S: Final = 2.0
    """A burst has as many connections as so many seconds allow."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._all = self._full(self.ALTOGETHER_A_SECOND)
        self._trusted: OrderedDict[str, None] = OrderedDict()

    def trust(self, host: str) -> None:
        """A peer was admitted from that address."""
        self._trusted[host] = None
        self._trusted.move_to_end(host)
        while len(self._trusted) > ADDRESSES_MAX:
            self._trusted.popitem(last=False)

    def allow(self, host: str) -> bool:
        """Whether one more may come from there now."""
        trusted = host in self._trusted
        a_second = self.FROM_PEERS_A_SECOND if trusted else self.A_SECOND
        bucket = self._buckets.get(host)
        if bucket is None:
            bucket = self._buckets[host] = self._full(a_second)
            if len(self._buckets) > ADDRESSES_MAX:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(host)
        now_s = self._now_s()
        if not bucket.take(now_s, a_second, a_second * self.BURST_S):
            return False
        altogether = self.ALTOGETHER_A_SECOND
        return trusted or self._all.take(now_s, altogether, altogether * self.BURST_S)

    def _full(self, a_second: float) -> _Bucket:
        return _Bucket(a_second * self.BURST_S, self._now_s())


def rated(
    sockets: Sequence[socket.socket],
    factory: Callable[[], asyncio.Protocol],
    rates: AcceptRates,
    refused: Refused = ignored,
) -> Acceptor:
    """Accept on listening sockets, as fast as ``rates`` allow, until it is closed.

    ``refused`` is called for every connection above the rate, and once for each pause.
    """
    said = Sparing(_logger, asyncio.get_running_loop().time)

    def admits(_accepted: socket.socket, host: str) -> bool:
        if rates.allow(host):
            return True
        refused("rate")
        said.warning("connections come too fast", {"address": host})
        return False

    def exhausted() -> None:
        refused("descriptors")
        said.warning("no connection can be accepted", {"reason": "no descriptor is left"})

    return Acceptor(sockets, factory, admits=admits, exhausted=exhausted)
