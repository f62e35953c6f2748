"""Reads the cluster for the monitor, in a thread, so that the screen never waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from tq.v1.cluster_service_pb2 import GetClusterStatusResponse
from tq.v1.worker_service_pb2 import ListWorkersResponse
from tq_admin.cluster import ask_in_turn, leader_of
from tq_admin.failures import Failure
from tq_admin.readings import Rates, Reading, together
from tq_client import Client, ReadLevel, Task, TqError

CALL_S = 1.5
"""The time limit of one call; the next reading comes soon."""
HISTORY = 60
DEAD_LETTERS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The newest readings; a part that could not be read keeps its last value."""

    count: int = 0
    """The number of readings so far."""
    cluster: GetClusterStatusResponse | None = None
    asked: str = ""
    reading: Reading | None = None
    rates: Mapping[str, Rates] = field(default_factory=dict)
    history: tuple[Rates, ...] = ()
    """The rates of all queues together, the newest last."""
    workers: ListWorkersResponse | None = None
    dead: tuple[Task, ...] = ()
    troubles: tuple[str, ...] = ()
    """What could not be read this time, and why."""

    @property
    def led(self) -> bool:
        """Whether the cluster has a leader."""
        return self.cluster is not None and leader_of(self.cluster) is not None


class Observer:
    """Reads the cluster every ``every_s`` until it is closed."""

    def __init__(self, addresses: tuple[str, ...], every_s: float) -> None:
        self._addresses = addresses
        self._every_s = every_s
        self._client = Client(addresses, timeout_s=CALL_S)
        self._history: deque[Rates] = deque(maxlen=HISTORY)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self.latest = Observation()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._client.close()
        if self._thread.is_alive():
            self._thread.join(CALL_S)

    def observe(self) -> Observation:
        """Read every part once."""
        now = replace(self.latest, count=self.latest.count + 1, troubles=())
        now = self._part(now, "cluster", self._see_cluster)
        if now.cluster is not None and any(node.reachable for node in now.cluster.nodes):
            now = self._part(now, "queues", self._see_queues)
            now = self._part(now, "dead letters", self._see_dead_letters)
            if now.led:
                now = self._part(now, "workers", self._see_workers)
        return now

    def _run(self) -> None:
        while not self._stop.is_set():
            self.latest = self.observe()
            self._stop.wait(self._every_s)

    def _part(
        self, before: Observation, what: str, see: Callable[[Observation], Observation]
    ) -> Observation:
        try:
            return see(before)
        except Failure as failure:
            trouble = f"{what}: {failure.message}"
        except TqError as error:
            trouble = f"{what}: {error}"
        return replace(before, troubles=(*before.troubles, trouble))

    def _see_cluster(self, before: Observation) -> Observation:
        try:
            # The node that answered last time comes first: a silent one is waited for only once.
            in_turn = sorted(self._addresses, key=lambda address: address != before.asked)
            asked, cluster = ask_in_turn(tuple(in_turn), CALL_S)
        except Failure:
            if before.cluster is None:
                raise
            gone = GetClusterStatusResponse()
            gone.CopyFrom(before.cluster)
            for node in gone.nodes:
                node.reachable, node.unreachable_reason = False, "no broker answered"
            trouble = "cluster: no broker answered; below is what was last seen"
            return replace(before, cluster=gone, troubles=(*before.troubles, trouble))
        return replace(before, cluster=cluster, asked=asked)

    def _see_queues(self, before: Observation) -> Observation:
        reading = Reading.of(self._client.list_queues(read_level=_level(before)))
        if before.reading is None:
            return replace(before, reading=reading)
        rates = reading.rates_since(before.reading)
        self._history.append(together(rates))
        return replace(before, reading=reading, rates=rates, history=tuple(self._history))

    def _see_dead_letters(self, before: Observation) -> Observation:
        letters = self._client.dead_letters(page_size=DEAD_LETTERS, read_level=_level(before))
        return replace(before, dead=tuple(islice(letters, DEAD_LETTERS)))

    def _see_workers(self, before: Observation) -> Observation:
        return replace(before, workers=self._client.list_workers())


def _level(seen: Observation) -> ReadLevel:
    """The read level: without a leader, some node's disk is the best source."""
    return ReadLevel.LINEARIZABLE if seen.led else ReadLevel.LOCAL
