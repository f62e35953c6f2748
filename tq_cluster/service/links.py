"""Connections to the other nodes' APIs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import grpc
import grpc.aio

from tq_cluster.service.limits import CHANNEL_OPTIONS


class Links:
    """One channel an address, made when first needed and kept."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._methods: dict[tuple[str, str], grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def method(self, address: str, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """Call ``path`` at ``address`` with bytes in and bytes out."""
        found = self._methods.get((address, path))
        if found is None:
            found = self._channel(address).unary_unary(path)
            self._methods[address, path] = found
        return found

    def ready(self, address: str) -> bool:
        """Whether a connection to ``address`` stands now; if none does, one is tried."""
        state = self._channel(address).get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY

    async def connected(self, address: str, within_s: float) -> bool:
        """Whether a connection to ``address`` stands, waiting up to ``within_s`` for one.

        What is sent on a connection that stands may have arrived when it breaks; what was never
        sent has not. That difference is why calls wait here and not inside gRPC.
        """
        channel = self._channel(address)
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return True
        try:
            async with asyncio.timeout(within_s):
                while state is not grpc.ChannelConnectivity.READY:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            return False
        return True

    def forget(self, address: str) -> None:
        """Close the connection to an address that is nobody's any more."""
        channel = self._channels.pop(address, None)
        for key in [each for each in self._methods if each[0] == address]:
            del self._methods[key]
        if channel is not None:
            closing = asyncio.get_running_loop().create_task(channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every channel; calls in flight on them fail."""
        channels, self._channels = self._channels, {}
        self._methods.clear()
        for channel in channels.values():
            await channel.close()

    def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            self._channels[address] = channel
        return channel


def metadata_of(pairs: object) -> Mapping[str, str]:
    """Text metadata as a mapping; of a key that stands more than once the first counts."""
    found: dict[str, str] = {}
    for key, value in pairs or ():  # type: ignore[attr-defined]
        if isinstance(value, str):
            found.setdefault(key, value)
    return found
