"""Readers of streams must keep a pace: one that stops reading loses its place to another."""

from __future__ import annotations

import asyncio
from typing import Final

import grpc.aio

from tq_cluster.errors import OverloadedError

STALLED_S: Final = 60.0
"""A reader that takes nothing for so long is cut off."""
SLOW_AFTER_S: Final = 600.0
"""How long a stream may wait for its reader in total, at any pace."""
BYTES_PER_S_MIN: Final = 256 * 1024
"""The pace required after that, as an average over the whole stream."""


class Pace:
    """Writes the parts of one stream."""

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._waited_s = 0.0
        self._sent_bytes = 0

    async def write(self, part: bytes) -> None:
        """Write one part; OverloadedError if the reader is too slow."""
        began_s = self._loop.time()
        try:
            async with asyncio.timeout(STALLED_S):
                await self._context.write(part)
        except TimeoutError:
            raise OverloadedError(
                f"nothing was read of the answer for {STALLED_S:g} s: ask again, and read on"
            ) from None
        self._waited_s += self._loop.time() - began_s
        self._sent_bytes += len(part)
        slow_after_s = SLOW_AFTER_S + self._sent_bytes / BYTES_PER_S_MIN
        if self._waited_s > slow_after_s:
            raise OverloadedError(
                f"the answer was read at less than {BYTES_PER_S_MIN // 1024} KiB/s: ask again, from"
                " nearer by"
            )
