"""The client for asyncio programs."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from tq_client import forks
from tq_client.calls import Caller
from tq_client.coalescer import Coalescer
from tq_client.connections import Connections, FollowLeader
from tq_client.services.cluster import ClusterCalls
from tq_client.services.queues import QueueCalls
from tq_client.services.tasks import TaskCalls
from tq_client.services.workers import WorkerCalls
from tq_common.addresses import DEFAULT_ADDRESSES, listed

TIMEOUT_S = 30.0


class AsyncClient(TaskCalls, QueueCalls, ClusterCalls, WorkerCalls):
    """A client of the brokers of one cluster, on one event loop.

    Every method repeats its call until it is answered or ``timeout_s`` has passed, but only if
    repeating is safe. Make it and use it on the same event loop. ``async with`` closes it.
    """

    def __init__(
        self,
        addresses: str | Iterable[str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        follow_leader: FollowLeader = "auto",
        conversations: bool = False,
        draw: random.Random | None = None,
    ) -> None:
        """Connect on the first call.

        Args:
            addresses: brokers as host:port, as a list or separated by commas. One is enough; with
                more, the client asks the others while one is down. Default: the environment
                variable TQ_ADDRESS, else the ports of `tq-cluster dev`.
            timeout_s: how long a call may take, in seconds, unless the call sets its own limit.
            follow_leader: ``never`` calls only brokers at the given addresses, which forward to the
                leader. ``auto`` calls the leader directly, unless all given addresses are on this
                machine and the leader's is not, as behind a tunnel.
            conversations: make the calls that are made most over one stream to each broker, for
                half of what gRPC costs; a broker that is too old for it is asked for each call by
                itself. For a program that makes calls all the time, such as a worker.
            draw: the source of the jitter.
        """
        forks.check()
        if addresses is None:
            addresses = os.environ.get("TQ_ADDRESS") or DEFAULT_ADDRESSES
        ring = listed(addresses)
        draw = draw or random.Random()
        self._timeout_s = timeout_s
        loop = asyncio.get_running_loop()
        self._caller = Caller(
            Connections(ring, loop.time, draw, follow_leader, converses=conversations), draw
        )
        self._coalescer = Coalescer(self._submit)
        forks.opened(self._caller)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End every call in flight; each error says whether the call may have been applied."""
        await self._caller.close()
        await self._coalescer.close()
        forks.closed(self._caller)


def caller_of(client: AsyncClient) -> Caller:
    """Return the `Caller` that makes the client's calls and holds its channels."""
    return client._caller  # noqa: SLF001  # of this module
