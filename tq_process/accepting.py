"""A listening port that accepts no more than it can keep.

asyncio's own server accepts every connection. Once no descriptor is left, it writes a traceback for
every waiting connection, a hundred at a time, and the process can open no files.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Literal

_logger = logging.getLogger(__name__)

Reason = Literal["total", "address", "descriptors"]
"""Why a connection was not accepted: the limit in total or per address is reached, or the process
has no descriptor for it."""

BACKLOG: Final = 256
BATCH: Final = 16
"""How many connections are accepted in one turn of the loop, at most."""
PER_WINDOW: Final = 200
WINDOW_S: Final = 0.1
"""At most ``PER_WINDOW`` connections are accepted in this time; others wait in the backlog."""
WITHOUT_DESCRIPTORS_S: Final = 1.0
"""How long nothing is accepted after the process ran out of descriptors."""
REMIND_S: Final = 60.0
"""How often continuing refusals are logged again."""

_NO_SUCH_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""A name may resolve to an IPv6 address on a machine without IPv6."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def _ignore(_reason: Reason) -> None:
    pass


class Acceptor:
    """Accepts on listening sockets until it is closed, a few connections in each turn of the loop.

    Without a free descriptor it rests; accepted connections go on.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        factory: Callable[[], asyncio.BaseProtocol],
        *,
        admits: Callable[[socket.socket, str], bool],
        exhausted: Callable[[], None],
    ) -> None:
        """Begin at once.

        Args:
            sockets: the listening sockets, which are closed with it.
            factory: makes the protocol of each connection.
            admits: whether a connection from this host is kept; otherwise it is closed.
            exhausted: called when no descriptor is left, once for each rest.
        """
        self._sockets = list(sockets)
        self._factory = factory
        self._admits = admits
        self._exhausted = exhausted
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: asyncio.TimerHandle | None = None
        self._go_on()

    def close(self) -> None:
        """Accept no more; open connections go on."""
        if self._resting is not None:
            self._resting.cancel()
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def rest(self, seconds: float) -> None:
        """Accept nothing for this time; new connections wait in the backlog."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
        if self._resting is None:
            self._resting = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(BATCH):
            if self._resting is not None:
                return
            try:
                accepted, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._exhausted()
                    self.rest(WITHOUT_DESCRIPTORS_S)
                # Other errors concern only this connection (accept(2)); the next may succeed.
                continue
            if not self._admits(accepted, str(address[0])):
                accepted.close()
                continue
            accepted.setblocking(False)
            task = self._loop.create_task(self._begin(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _begin(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, accepted)
        except OSError:  # it has gone already
            accepted.close()


class Listener:
    """Accepts connections on the event loop, up to a limit in total and per address."""

    def __init__(
        self,
        name: str,
        *,
        total_max: int,
        per_address_max: int,
        refused: Callable[[Reason], None] = _ignore,
    ) -> None:
        """``name`` names the port in log lines; ``refused`` is called for every refusal."""
        self._name = name
        self._total_max = total_max
        self._per_address_max = per_address_max
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._acceptor: Acceptor | None = None
        self._open: list[tuple[socket.socket, str]] = []
        """Accepted sockets, with their addresses; a closing transport closes its socket."""
        self._by_address: Counter[str] = Counter()
        self._window_ends_s = 0.0
        self._in_window = 0
        self._logged: dict[Reason, float] = {}
        self._unlogged: Counter[Reason] = Counter()
        self.port = 0
        """The port that it listens on; 0 before `listen`."""

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        self._prune()
        return len(self._open)

    async def listen(
        self, host: str, port: int, factory: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        """Listen at every address that ``host`` resolves to; raises OSError if that fails.

        ``factory`` makes the protocol of each connection.
        """
        sockets = await listening_sockets(host, port)
        self.port = int(sockets[0].getsockname()[1])
        self._acceptor = Acceptor(
            sockets,
            factory,
            admits=self._admits,
            exhausted=lambda: self._refuse("descriptors", ""),
        )

    def close(self) -> None:
        """Stop listening; open connections go on."""
        if self._acceptor is not None:
            self._acceptor.close()

    def _admits(self, accepted: socket.socket, address: str) -> bool:
        self._count()
        if reason := self._full(address):
            self._prune()
            reason = self._full(address)
        if reason is not None:
            self._refuse(reason, address)
            return False
        self._open.append((accepted, address))
        self._by_address[address] += 1
        return True

    def _count(self) -> None:
        now_s = self._loop.time()
        if now_s >= self._window_ends_s:
            self._window_ends_s = now_s + WINDOW_S
            self._in_window = 0
        self._in_window += 1
        if self._in_window >= PER_WINDOW and self._acceptor is not None:
            self._acceptor.rest(self._window_ends_s - now_s)

    def _full(self, address: str) -> Reason | None:
        if len(self._open) >= self._total_max:
            return "total"
        if self._by_address[address] >= self._per_address_max:
            return "address"
        return None

    def _prune(self) -> None:
        self._open = [each for each in self._open if each[0].fileno() >= 0]
        self._by_address = Counter(address for _, address in self._open)

    def _refuse(self, reason: Reason, address: str) -> None:
        self._refused(reason)
        self._unlogged[reason] += 1
        now_s = self._loop.time()
        if now_s < self._logged.get(reason, float("-inf")) + REMIND_S:
            return
        self._logged[reason] = now_s
        _logger.warning(
            "connections are refused",
            extra={
                "port": self._name,
                "why": self._why(reason),
                "address": address,
                "refused": self._unlogged.pop(reason),
            },
        )

    def _why(self, reason: Reason) -> str:
        match reason:
            case "total":
                return f"it has {self._total_max} connections already"
            case "address":
                return f"{self._per_address_max} connections from this address stand already"
            case "descriptors":
                return "the process has no descriptor left for them"


async def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen at every address of ``host``; raises OSError if one fails.

    An empty ``host`` means all addresses of the machine. Addresses that the machine does not have
    are skipped, unless it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, kind, protocol, _, place in dict.fromkeys(found):
            try:
                sockets.append(_bound(family, kind, protocol, place))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                absent = error
    except BaseException:
        for each in sockets:
            each.close()
        raise
    if not sockets:
        raise absent or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return sockets


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # A name with addresses of both kinds gets a socket for each.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
