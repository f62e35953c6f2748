"""A modelled network: connections delay, stall, break, and lose their other end silently."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tests.simulation.world.virtual_loop import HostLoop, VirtualLoop

KERNEL_BYTES = 256 * 1024
"""The bytes that a socket takes before the sender has to wait."""

SEGMENT_BYTES = 64 * 1024


@dataclass
class Conditions:
    """The present condition of the network."""

    latency_s: tuple[float, float] = (0.0002, 0.001)
    bytes_per_s: float = 100e6
    blocked: set[tuple[str, str]] = field(default_factory=set)
    """Blocked directions. Data that is sent waits, as in TCP."""


class ModelledNetwork:
    """All hosts' connections."""

    def __init__(self, loop: VirtualLoop, draw: random.Random) -> None:
        self.loop = loop
        self.draw = draw
        self.conditions = Conditions()
        self._listeners: dict[str, tuple[str, HostLoop, Callable[[], asyncio.Protocol]]] = {}
        self._links: list[Link] = []
        self.on_way_free: list[Callable[[], None]] = []
        """Called when a direction is no longer blocked, for other traffic on this network."""
        self.on_links_broken: list[Callable[[str, str], None]] = []

    def of_host(self, name: str, host_loop: HostLoop) -> HostNetwork:
        return HostNetwork(self, name, host_loop)

    def latency_s(self) -> float:
        return self.draw.uniform(*self.conditions.latency_s)

    # ------------------------------------------------------------------ faults

    def block(self, source: str, target: str) -> None:
        self.conditions.blocked.add((source, target))

    def heal(self) -> None:
        """Unblock every direction; waiting data goes on."""
        self.conditions.blocked.clear()
        self._pump_all()

    def unblock(self, source: str, target: str) -> None:
        self.conditions.blocked.discard((source, target))
        self._pump_all()

    def _pump_all(self) -> None:
        for link in list(self._links):
            link.pump_all()
        for pump in self.on_way_free:
            pump()

    def break_links(self, one: str, other: str) -> None:
        """Reset the connections between two hosts."""
        for link in list(self._links):
            if {end.name for end in link.ends} == {one, other}:
                link.reset()
        for also in self.on_links_broken:
            also(one, other)

    def get_stuck(self, one: str, other: str) -> None:
        """Block the connections that two hosts have; new ones work.

        As TCP after a partition, which waits longer each time before it sends anything again.
        """
        for link in self._links:
            if {end.name for end in link.ends} == {one, other}:
                link.stuck = True

    def come_loose(self, one: str, other: str) -> None:
        """Unblock the stuck connections between two hosts."""
        for link in list(self._links):
            if {end.name for end in link.ends} == {one, other}:
                link.stuck = False
                link.pump_all()

    def host_died(self, name: str, *, silently: bool) -> None:
        """A process ended (its kernel resets the connections) or its machine did (silently)."""
        self._listeners = {a: entry for a, entry in self._listeners.items() if entry[0] != name}
        for link in list(self._links):
            if name in {end.name for end in link.ends}:
                link.end_died(name, silently=silently)

    # ------------------------------------------------------------------ connections

    def listen(
        self, address: str, name: str, host: HostLoop, factory: Callable[[], asyncio.Protocol]
    ) -> None:
        assert address not in self._listeners, f"{address} is in use"
        self._listeners[address] = (name, host, factory)

    def close_listener(self, address: str) -> None:
        self._listeners.pop(address, None)

    def connect(self, source: str, host: HostLoop, address: str, attempt: Attempt) -> None:
        listener = self._listeners.get(address)
        if listener is None:
            self.loop.call_later(
                self.latency_s(), host.arrived, lambda: attempt.fail(ConnectionRefusedError())
            )
            return
        target, target_host, factory = listener
        blocked = self.conditions.blocked
        if (source, target) in blocked or (target, source) in blocked:
            self.loop.call_later(1.0, host.arrived, lambda: attempt.fail(TimeoutError()))
            return

        def established() -> None:
            if attempt.given_up or host.ended:
                return
            if self._listeners.get(address) != listener:
                host.arrived(lambda: attempt.fail(ConnectionRefusedError()))
                return
            link = Link(self, End(source, host), End(target, target_host))
            self._links.append(link)
            link.open(attempt.protocol, factory())

        self.loop.call_later(2 * self.latency_s(), established)

    def forget(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)


class Attempt:
    """A dial."""

    def __init__(self, protocol: asyncio.Protocol, failed: Callable[[OSError], None]) -> None:
        self.protocol = protocol
        self.given_up = False
        self._failed = failed

    def fail(self, error: OSError) -> None:
        if not self.given_up:
            self._failed(error)

    def give_up(self) -> None:
        self.given_up = True


class HostNetwork:
    """Implements ``network.Network`` for one host."""

    def __init__(self, network: ModelledNetwork, name: str, host_loop: HostLoop) -> None:
        self._network = network
        self._name = name
        self._host_loop = host_loop

    async def listen(
        self, address: str, factory: Callable[[], asyncio.Protocol]
    ) -> Callable[[], None]:
        self._network.listen(address, self._name, self._host_loop, factory)
        return lambda: self._network.close_listener(address)

    def dial(
        self, address: str, protocol: asyncio.Protocol, failed: Callable[[OSError], None]
    ) -> Callable[[], None]:
        attempt = Attempt(protocol, failed)
        self._network.connect(self._name, self._host_loop, address, attempt)
        return attempt.give_up

    def trust(self, host: str) -> None:
        """Do nothing: nothing is limited here."""


class Link:
    """One connection: two ends."""

    def __init__(self, network: ModelledNetwork, one: End, other: End) -> None:
        self.network = network
        self.ends = (one, other)
        self.stuck = False
        one.link, other.link = self, self
        one.far, other.far = other, one

    def open(self, *protocols: asyncio.Protocol) -> None:
        for end, protocol in zip(self.ends, protocols, strict=True):
            end.protocol = protocol
            end.host.arrived(partial(protocol.connection_made, end), end)

    def pump_all(self) -> None:
        for end in self.ends:
            end.pump()

    def reset(self) -> None:
        self.network.forget(self)
        for end in self.ends:
            end.lost(self.network.latency_s())

    def end_died(self, name: str, *, silently: bool) -> None:
        for end in self.ends:
            if end.name == name:
                end.gone = True
            elif not silently:
                end.lost(self.network.latency_s())
        if not silently:
            self.network.forget(self)


class End(asyncio.Transport):
    """One side of a connection, as asyncio shows it to a protocol."""

    link: Link
    far: End
    protocol: asyncio.Protocol

    def __init__(self, name: str, host: HostLoop) -> None:
        super().__init__()
        self.name = name
        self.host = host
        self.gone = False
        """Whether its process or machine is dead, or it has closed: it takes no more data."""
        self._aborted = False
        """Whether it was aborted: it then informs a peer that still sends to it."""
        self._sent: deque[bytes] = deque()
        self._sent_bytes = 0
        self._transit: deque[bytes] = deque()
        self._stalled = 0
        self._busy_until_s = 0.0
        self._on_its_way = 0
        self._high = 64 * 1024
        self._paused = False
        self._finished = False
        self._told = False

    # ------------------------------------------------------------------ asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.gone or self._finished:
            return
        whole = bytes(data)
        for start in range(0, len(whole), SEGMENT_BYTES):
            self._sent.append(whole[start : start + SEGMENT_BYTES])
        self._sent_bytes += len(whole)
        self.pump()
        if self.get_write_buffer_size() > self._high and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return max(0, self._sent_bytes + self._on_its_way - KERNEL_BYTES)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del low
        self._high = high or self._high

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (self.far.name, 0) if name == "peername" else default

    def close(self) -> None:
        """Send the remaining data, then close."""
        if not self._finished:
            self._finished = True
            self.pump()

    def abort(self) -> None:
        if self.gone:
            return
        self.gone = self._aborted = True
        if self._way_is_free():
            self.link.network.forget(self.link)
            self.far.lost(self.link.network.latency_s())
        self.lost(0.0)

    def is_closing(self) -> bool:
        return self._finished or self.gone

    # ------------------------------------------------------------------ the wire

    def pump(self) -> None:
        """Send the waiting data if the way is free."""
        network = self.link.network
        if not self._way_is_free():
            return
        while self._sent:
            piece = self._sent.popleft()
            self._sent_bytes -= len(piece)
            self._on_its_way += len(piece)
            self._transit.append(piece)
            self._depart(len(piece))
        for _ in range(self._stalled):
            self._depart(0)
        self._stalled = 0
        if self._finished and not self.gone:
            self.gone = True
            when_s = max(self._busy_until_s, network.loop.time())
            network.loop.call_at(when_s, self.far.lost, 0.0)

    def _way_is_free(self) -> bool:
        blocked = self.link.network.conditions.blocked
        return not self.link.stuck and (self.name, self.far.name) not in blocked

    def _depart(self, size: int) -> None:
        network = self.link.network
        arrival_s = network.loop.time() + network.latency_s()
        transfer_s = size / network.conditions.bytes_per_s
        self._busy_until_s = max(self._busy_until_s + transfer_s, arrival_s)
        network.loop.call_at(self._busy_until_s, self._arrive)

    def _arrive(self) -> None:
        if not self._way_is_free():
            # The way was blocked while the data was on it: TCP sends it again, in order.
            self._stalled += 1
            return
        piece = self._transit.popleft()
        self.far.host.arrived(lambda: self._read(piece), self.far)

    def _read(self, piece: bytes) -> None:
        self._on_its_way -= len(piece)
        if not self.far.gone:
            self.far.protocol.data_received(piece)
        elif self.far._aborted and self.far._way_is_free():
            self.lost(self.link.network.latency_s())
        if self._paused and self.get_write_buffer_size() <= self._high // 4 and not self.gone:
            self._paused = False
            self.host.arrived(self.protocol.resume_writing)

    def lost(self, after_s: float) -> None:
        """Let this end see, after a delay, that the connection is lost."""

        def tell() -> None:
            self.host.arrived(self._tell_lost, self)

        self.link.network.loop.call_later(after_s, tell)

    def _tell_lost(self) -> None:
        if not self._told:
            self._told = True
            self.gone = True
            if not self._aborted or self.far.gone:
                self.link.network.forget(self.link)
            self.protocol.connection_lost(None)
