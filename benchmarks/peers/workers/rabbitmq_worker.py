"""A consumer that acknowledges each message after it has run."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aio_pika

PREFETCH = 200


async def main(url: str, queue: str) -> None:
    """Run until the process is ended."""
    connection = await aio_pika.connect(url)
    channel = await connection.channel(publisher_confirms=False)
    await channel.set_qos(prefetch_count=PREFETCH)

    async def handle(message: Any) -> None:  # noqa: ANN401  # untyped library
        await message.ack()
        if message.reply_to:
            reply = aio_pika.Message(b"", correlation_id=message.correlation_id)
            await channel.default_exchange.publish(reply, routing_key=message.reply_to)

    source = await channel.declare_queue(queue, passive=True)
    await source.consume(handle)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
