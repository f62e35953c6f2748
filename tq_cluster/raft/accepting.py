"""Accepting connections on a port that strangers reach: so many a second from each address.

One that comes too fast is closed before anything is made of it. Where no descriptor is left,
accepting pauses: what was accepted goes on, and the log says so once a minute.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tq_cluster.telemetry.sparing import Sparing

log = logging.getLogger(__name__)

BACKLOG: Final = 128
ACCEPTS_A_TURN: Final = 16
"""So many at most before the loop looks at everything else again."""
PAUSE_S: Final = 1.0
_NOTHING_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
ADDRESSES_MAX: Final = 1024


Refused = Callable[[Literal["rate", "descriptors"]], None]


def ignored(_reason: object) -> None:
    """Nobody counts them."""


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
    """How fast connections may come: from an address, from one where a peer is, from all."""

    A_SECOND: Final = 20.0
    FROM_PEERS_A_SECOND: Final = 200.0
    """Brokers that share a machine with whoever floods them must still find each other."""
    ALTOGETHER_A_SECOND: Final = 400.0
    BURST_S: Final = 2.0
    """A burst is what so many seconds bring."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._all = self._full(self.ALTOGETHER_A_SECOND)
        self._trusted: OrderedDict[str, None] = OrderedDict()

    def trust(self, host: str) -> None:
        """A peer has proved itself from there."""
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


class Acceptor:
    """Accepts on listening sockets until it is closed."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.Protocol],
        rates: AcceptRates,
        loop: asyncio.AbstractEventLoop,
        refused: Refused = ignored,
    ) -> None:
        """``refused`` is told of every connection that is not accepted."""
        self._refused = refused
        self._sockets = sockets
        self._factory = factory
        self._rates = rates
        self._loop = loop
        self._said = Sparing(log, loop.time)
        self._making: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        for each in sockets:
            loop.add_reader(each, self._accept, each)

    def close(self) -> None:
        """Accept no more."""
        if self._pause is not None:
            self._pause.cancel()
        for each in self._sockets:
            self._loop.remove_reader(each)
            each.close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NOTHING_LEFT:
                    self._rest(error)
                    return
                continue  # the one that came is gone again
            host = str(address[0])
            if not self._rates.allow(host):
                accepted.close()
                self._refused("rate")
                self._said.warning("connections come too fast", {"address": host})
                continue
            accepted.setblocking(False)
            making = self._loop.create_task(self._make(accepted))
            self._making.add(making)
            making.add_done_callback(self._making.discard)

    async def _make(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, accepted)
        except OSError:
            accepted.close()  # it is gone already

    def _rest(self, error: OSError) -> None:
        self._refused("descriptors")
        self._said.warning("no connection can be accepted", {"reason": error.strerror})
        for each in self._sockets:
            self._loop.remove_reader(each)
        self._pause = self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        for each in self._sockets:
            self._loop.add_reader(each, self._accept, each)


async def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen at all addresses of ``host``. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            each = socket.socket(family, kind, protocol)
            sockets.append(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.setblocking(False)
            each.bind(address)
            each.listen(BACKLOG)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets
