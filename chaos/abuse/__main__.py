"""``python -m chaos.abuse KIND --seed N --api A,B,C --raft A,B,C``: abuse until it is ended.

It is a separate process, so that the load keeps its pace, and so that it can be ended at any time
with all its connections. It prints ``under way`` once the abuse has begun.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
from collections.abc import Awaitable, Callable, Mapping

from chaos.abuse import connections, conversations, giants, readers, storms, strangers
from chaos.abuse.target import Target

UNDER_WAY = "under way"
LONGEST_S = 300.0
"""An abuser whose parent is gone ends by itself."""
NICE = 10
"""The brokers share this machine with the abusers, which they would not do in production."""

KINDS: Mapping[str, Callable[[Target], Awaitable[None]]] = {
    "idle": connections.idle,
    "drip": connections.drip,
    "readers": readers.slow,
    "giants": giants.giants,
    "conversations": conversations.conversations,
    "storms": storms.storms,
    "strangers": strangers.strangers,
}


class _Said:
    """Says ``under way`` once."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self) -> None:
        if not self._said:
            self._said = True
            print(UNDER_WAY, flush=True)  # noqa: T201  # what the parent process waits for


async def _run(kind: str, target: Target) -> None:
    async with asyncio.timeout(LONGEST_S):
        await KINDS[kind](target)


def main() -> None:
    """Read the command line, and abuse."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--seed", type=int, default=1)
    for port in ("api", "raft", "metrics"):
        parser.add_argument(f"--{port}", type=_addresses, default=[])
    asked = parser.parse_args()
    os.nice(NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    target = Target(
        api=asked.api,
        raft=asked.raft,
        metrics=asked.metrics,
        draw=random.Random(asked.seed),
        under_way=_Said(),
    )
    asyncio.run(_run(asked.kind, target))


def _addresses(text: str) -> list[str]:
    return [address for address in text.split(",") if address]


if __name__ == "__main__":
    main()
