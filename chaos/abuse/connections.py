"""Connections that cost their caller nothing: idle, and fed a byte now and then."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from chaos.abuse.target import Target, together

EACH = 1_200
"""Connections to each port: more than the usual soft limit of descriptors."""
AT_ONCE = 50
CONNECT_S = 2.0
DRIP_S = 1.0


async def idle(target: Target) -> None:
    """Open very many connections to every port, send nothing, and reopen those that are closed."""
    await _hold(target, drip=b"")


async def drip(target: Target) -> None:
    """As ``idle``, but send one byte a second on each connection: a greeting that never ends."""
    await _hold(target, drip=b"\x00")


async def _hold(target: Target, drip: bytes) -> None:
    addresses = [*target.api, *target.raft, *target.metrics]
    gates = [asyncio.Semaphore(AT_ONCE) for _ in addresses]
    began = [0]

    async def one(address: str, gate: asyncio.Semaphore) -> None:
        host, _, port = address.rpartition(":")
        while True:
            async with gate:
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(CONNECT_S):
                        reader, writer = await asyncio.open_connection(host, int(port))
                    began[0] += 1
                    if began[0] == len(addresses) * AT_ONCE:
                        target.under_way()
                    waiting = asyncio.create_task(_until_closed(reader, writer, drip))
                    await asyncio.sleep(0)
                    gate.release()
                    try:
                        await waiting
                    finally:
                        writer.transport.abort()
                        await gate.acquire()
            # Refused or closed: connect again, but not in a loop that overloads the machine.
            await asyncio.sleep(target.draw.uniform(0.5, 1.5))

    await together(
        [
            one(address, gate)
            for address, gate in zip(addresses, gates, strict=True)
            for _ in range(EACH)
        ]
    )


async def _until_closed(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drip: bytes
) -> None:
    while True:
        if drip:
            writer.write(drip)
        try:
            async with asyncio.timeout(DRIP_S if drip else None):
                if not await reader.read(4096):
                    return
        except TimeoutError:
            continue
