"""F5: the request arrives, and its reply is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from chaos.cluster.proxy import Proxy
from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis

MUTED_S = (0.02, 0.4)
CLEAR_S = (0.05, 0.4)


class RepliesLost(Nemesis):
    """Between clients and nodes a proxy swallows replies for a while, then cuts the connections."""

    name = "replies-lost"
    faults = ("F5",)
    summary = "calls arrive and their replies are lost, in bursts"
    hold_s = (2.5, 4.0)

    def __init__(self) -> None:
        self._proxies: list[Proxy] = []
        self._bursts: asyncio.Task[None] | None = None

    async def front(self, addresses: Sequence[str]) -> Sequence[str]:
        self._proxies = [Proxy(address) for address in addresses]
        return [await proxy.start() for proxy in self._proxies]

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        del context
        self._bursts = asyncio.create_task(self._mute_now_and_then(draw))
        return Injected("replies of every node are lost, in bursts")

    async def heal(self, context: RunContext) -> None:
        if self._bursts is None:
            return
        self._bursts.cancel()
        await asyncio.gather(self._bursts, return_exceptions=True)
        self._bursts = None
        for proxy in self._proxies:
            # A connection that lost bytes can never be used again.
            proxy.cut()
            proxy.muted = False
        if not any(proxy.lost.is_set() for proxy in self._proxies):
            context.accuse("suite", "no reply was lost: this run shows nothing of F5")

    async def cleanup(self) -> None:
        for proxy in self._proxies:
            await proxy.close()

    async def _mute_now_and_then(self, draw: random.Random) -> None:
        while True:
            some = draw.sample(self._proxies, draw.randint(1, len(self._proxies)))
            for proxy in some:
                proxy.muted = True
            await asyncio.sleep(draw.uniform(*MUTED_S))
            for proxy in some:
                proxy.cut()
                proxy.muted = False
            await asyncio.sleep(draw.uniform(*CLEAR_S))
