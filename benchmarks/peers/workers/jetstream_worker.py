"""A pull consumer that always has up to 500 messages in hand, and confirms each ack.

nats-py's own `fetch` waits for a full batch or a time limit: a lone message would be late. So this
asks for messages as the other NATS clients' `consume` does: more, before the last have come.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import nats

STREAM = "bench"
REPLY = "tq-reply"
IN_HAND = 500
EXPIRES_S = 30


async def main(url: str, queue: str) -> None:
    """Run until the process is ended."""
    connection = await nats.connect(url)
    inbox = connection.new_inbox()
    asked = 0
    running: set[asyncio.Task[None]] = set()

    async def ask() -> None:
        nonlocal asked
        more = IN_HAND - asked
        asked += more
        request = {"batch": more, "expires": EXPIRES_S * 1_000_000_000}
        await connection.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{queue}", json.dumps(request).encode(), inbox
        )

    async def handle(message: Any) -> None:  # noqa: ANN401  # untyped library
        await message.ack_sync(timeout=20)
        reply = (message.headers or {}).get(REPLY)
        if reply:
            await connection.publish(reply, b"")

    async def received(message: Any) -> None:  # noqa: ANN401  # untyped library
        nonlocal asked
        if not message.reply:
            # A status: the request ended, with what it still had to deliver.
            asked = 0
        else:
            asked -= 1
            task = asyncio.create_task(handle(message))
            running.add(task)
            task.add_done_callback(running.discard)
        if asked <= IN_HAND // 2:
            await ask()

    await connection.subscribe(inbox, cb=received)
    await ask()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
