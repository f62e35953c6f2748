"""Wrappers between a node's layers: timers around disk and state, and the port to bind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import StartError
from tq_cluster.raft.accepting import Refused
from tq_cluster.raft.network import TcpNetwork
from tq_cluster.raft.syncer import Done, Job, Syncer
from tq_cluster.storage.store import Store


class TimedSyncer:
    """Reports how long each write and fsync of the journal took."""

    def __init__(self, inner: Syncer, observe: Callable[[float], None]) -> None:
        self._inner = inner
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._since_s: float | None = None

    @property
    def running_s(self) -> float:
        """Return how long the current operation has been running; 0 if there is none."""
        return 0.0 if self._since_s is None else self._loop.time() - self._since_s

    def run(self, job: Job, done: Done) -> None:
        spent_s = 0.0

        def timed() -> None:
            nonlocal spent_s
            started_s = self._loop.time()
            job()
            spent_s = self._loop.time() - started_s

        def report(error: BaseException | None) -> None:
            self._since_s = None
            if error is None:
                self._observe(spent_s)
            done(error)

        self._since_s = self._loop.time()
        self._inner.run(timed, report)

    def finish(self) -> None:
        self._inner.finish()


class TimedState:
    """The state as the log uses it; reports how long each entry took to apply."""

    def __init__(self, store: Store, observe: Callable[[float], None]) -> None:
        self._store = store
        self._observe = observe
        self._loop = asyncio.get_running_loop()

    @property
    def applied(self) -> AppliedAt:
        return self._store.applied

    @property
    def durable(self) -> AppliedAt:
        return self._store.durable

    @property
    def full(self) -> bool:
        return self._store.full

    def apply(self, index: int, term: int, entry: bytes) -> bool:
        started_s = self._loop.time()
        took_effect = self._store.apply(index, term, entry)
        self._observe(self._loop.time() - started_s)
        return took_effect


class ListenElsewhere(TcpNetwork):
    """Binds where the configuration says, whichever address the peers dial."""

    def __init__(self, address: str, trusted: Callable[[str], None], refused: Refused) -> None:
        """``trusted`` receives the hosts from which peers were admitted."""
        super().__init__(refused=refused)
        self._address = address
        self._trusted = trusted

    def trust(self, host: str) -> None:
        super().trust(host)
        self._trusted(host)

    async def listen(
        self, address: str, factory: Callable[[], asyncio.Protocol]
    ) -> Callable[[], None]:
        try:
            return await super().listen(self._address, factory)
        except OSError as error:
            raise StartError(
                f"the raft port cannot listen at {self._address} (known to peers as {address}):"
                f" {error.strerror}"
            ) from error
