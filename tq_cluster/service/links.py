"""Connections to the other nodes' APIs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Any, Protocol

import grpc
import grpc.aio

from tq_cluster.service.arrivals import read_spread
from tq_cluster.service.limits import CHANNEL_OPTIONS

LARGE_REPLIES_MAX = 3
"""How many replies that may be large are read at once: 20 MiB each at most."""


class Sent(Protocol):
    """A call that was sent to another node."""

    def __await__(self) -> Generator[Any, None, bytes]:
        """Wait for the reply."""

    async def trailing_metadata(self) -> Any:  # noqa: ANN401  # as gRPC's call
        """Return the metadata that followed the reply."""

    def cancel(self) -> bool:
        """Stop waiting."""


class _Fetched:
    """A call whose reply stays with the other node until there is a place for it here.

    The method is called as if replies were streams, which are the same on the wire: gRPC reads no
    more than 64 KiB of a stream before it is asked to.
    """

    def __init__(
        self, sent: grpc.aio.UnaryStreamCall[bytes, bytes], places: asyncio.Semaphore
    ) -> None:
        self._sent = sent
        self._places = places

    def __await__(self) -> Generator[Any, None, bytes]:
        return self._fetch().__await__()

    async def _fetch(self) -> bytes:
        try:
            await self._sent.initial_metadata()  # comes with the reply, or with the failure
            async with self._places:
                reply = await read_spread(self._sent.read)
        except asyncio.CancelledError:
            await self._abort()
            raise
        if not isinstance(reply, bytes):
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.INTERNAL,
                await self._sent.initial_metadata(),
                await self._sent.trailing_metadata(),
                "the call was answered without a reply",
            )
        return reply

    async def _abort(self) -> None:
        """End the call at the other node, too, and free it here.

        gRPC cancels a unary call if its waiter is cancelled, but not one like this. The other node
        would hold it until its deadline, and might grant tasks to a caller that has gone.
        """
        self._sent.cancel()
        # The call's own task refers to the call through its exception, until that is retrieved.
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self._sent.wait_for_connection()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return the metadata that followed the reply."""
        return await self._sent.trailing_metadata()

    def cancel(self) -> bool:
        """Stop waiting."""
        return self._sent.cancel()


class Links:
    """One channel for each address, made when first needed and kept."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._methods: dict[tuple[str, str], grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._large: dict[tuple[str, str], grpc.aio.UnaryStreamMultiCallable[bytes, bytes]] = {}
        self._large_places = asyncio.Semaphore(LARGE_REPLIES_MAX)

    def method(self, address: str, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """Call ``path`` at ``address`` with bytes in and bytes out."""
        found = self._methods.get((address, path))
        if found is None:
            found = self._channel(address).unary_unary(path)
            self._methods[address, path] = found
        return found

    def large(self, address: str, path: str) -> Callable[..., Sent]:
        """Call ``path`` at ``address`` as above, for a reply that may be large."""
        found = self._large.get((address, path))
        if found is None:
            found = self._large[address, path] = self._channel(address).unary_stream(path)
        calling = found

        def send(raw: bytes, *, timeout: float, metadata: Any) -> Sent:  # noqa: ANN401  # as gRPC's
            return _Fetched(calling(raw, timeout=timeout, metadata=metadata), self._large_places)

        return send

    def ready(self, address: str) -> bool:
        """Whether a connection to ``address`` is established; if not, one is tried."""
        state = self._channel(address).get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY

    async def connected(self, address: str, within_s: float) -> bool:
        """Whether a connection to ``address`` is established, waiting up to ``within_s`` for one.

        A call sent on an established connection may have arrived when the connection breaks; a call
        that was never sent has not. Because of that difference calls wait here and not inside gRPC.
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
        """Close the connection to an address that is no longer in use."""
        channel = self._channels.pop(address, None)
        for key in [each for each in self._methods if each[0] == address]:
            del self._methods[key]
        for key in [each for each in self._large if each[0] == address]:
            del self._large[key]
        if channel is not None:
            closing = asyncio.get_running_loop().create_task(channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every channel; calls in flight on them fail."""
        channels, self._channels = self._channels, {}
        self._methods.clear()
        self._large.clear()
        for channel in channels.values():
            await channel.close()

    def _channel(self, address: str) -> grpc.aio.Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            self._channels[address] = channel
        return channel


def metadata_of(pairs: object) -> Mapping[str, str]:
    """Return text metadata as a mapping; of a repeated key the first value counts."""
    found: dict[str, str] = {}
    for key, value in pairs or ():  # type: ignore[attr-defined]
        if isinstance(value, str):
            found.setdefault(key, value)
    return found
