"""A steady load on a cluster: a ledger holds every call, and the end checks the history."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from grpc import aio

from chaos.clients.client import StubClient
from chaos.clients.worker import Plan, StubWorker, work_result
from chaos.cluster.cluster import Cluster
from chaos.cluster.stubs import Broker, seconds
from chaos.history.calls import Answer, Ending, ReadCall, SubmitCall
from chaos.history.model import TERMINAL
from chaos.history.outages import first_acknowledged_s
from chaos.history.record import Ledger
from chaos.history.verdict import check
from chaos.history.violation import Violation
from tq.v1 import task_pb2, task_service_pb2

QUEUE = "load"
WORKERS = ("w1", "w2", "w3")
SUBMIT_EVERY_S = 0.02
READ_EVERY_S = 0.05
PATIENCE_S = 60.0
"""Longer than any fault and its aftermath."""
FINISH_S = 180.0
"""How long every task may take to end once the faults are over, on a busy machine, too."""
UNANSWERED_MAX = 200
"""The limit of unanswered submits: without it, each retry would add to the load of a machine that
is too slow, and it would never recover."""
NEWEST = 20
UNDER_WAY = 100
BACKOFF_S, BACKOFF_MAX_S = 0.05, 0.5


@dataclass(slots=True)
class Load:
    """Submits at a steady pace, works the tasks off with three workers, reads some of them.

    The pace does not wait for answers, so that the ledger also shows how long writes were out; but
    no new submit begins while very many answers are missing.
    """

    cluster: Cluster
    lease_s: float = 2.0
    seed: int = 1
    queue: str = QUEUE
    shared: bool = False
    """Whether the cluster holds other tasks: then only this queue's tasks are checked."""
    ledger: Ledger = field(default_factory=lambda: Ledger(time.monotonic))
    addresses: Sequence[str] = ()
    """The addresses of the brokers, if calls do not go to the nodes themselves."""
    held_back: bool = field(init=False, default=False)
    """Whether no new submits are sent: after a very long outage the waiting ones would be a
    stampede, which is a fault of its own."""
    client: StubClient = field(init=False)
    workers: list[StubWorker] = field(init=False)
    _draw: random.Random = field(init=False)
    _ids: list[str] = field(init=False, default_factory=list)
    _submitting: asyncio.Task[None] | None = field(init=False, default=None)
    _running: list[asyncio.Task[None]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        addresses = self.addresses or self.cluster.addresses
        self.client = StubClient(addresses, self.ledger, "client")
        self.workers = [
            StubWorker(addresses, self.ledger, worker_id, self.queue, lease_s=self.lease_s)
            for worker_id in WORKERS
        ]

    async def __aenter__(self) -> Self:
        self._submitting = asyncio.create_task(self._submit_steadily())
        self._running = [asyncio.create_task(worker.run()) for worker in self.workers]
        self._running.append(asyncio.create_task(self._read_steadily()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await _cancel([self._submitting, *self._running])
        for caller in (self.client, *self.workers):
            await caller.close()

    async def await_acknowledgement(self, within_s: float, *, since_s: float | None = None) -> None:
        """Wait until a submit that was sent since then, or from now on, has been acknowledged."""
        from_s = self.ledger.now_s() if since_s is None else since_s

        async def acknowledged() -> bool | None:
            return first_acknowledged_s(self.ledger, from_s) is not None or None

        await self._await("a new write to be acknowledged", acknowledged, within_s)

    async def await_under_way(self, within_s: float = 30) -> None:
        """Wait until the load is well under way: tasks are waiting, held and finished."""

        async def under_way() -> bool | None:
            done = sum(worker.done for worker in self.workers)
            return (len(self._ids) >= UNDER_WAY and done >= UNDER_WAY // 2) or None

        await self._await(f"{UNDER_WAY} tasks to be submitted", under_way, within_s)

    async def await_silence(self, within_s: float, *, since_s: float) -> None:
        """Wait until running brokers could not take a submit that was sent since then."""

        async def silent() -> bool | None:
            return (
                any(
                    call.detail in {"UNAVAILABLE NO_LEADER", "DEADLINE_EXCEEDED"}
                    for call in self.ledger.calls_since(since_s)
                    if isinstance(call, SubmitCall)
                )
                or None
            )

        await self._await("a write that finds no leader", silent, within_s)

    async def finish(self, within_s: float = FINISH_S) -> list[Violation]:
        """Stop submitting, let every task finish, read all of them and check the whole history."""
        await _cancel([self._submitting])

        async def finished() -> bool | None:
            try:
                tasks = await self._list()
            except aio.AioRpcError:
                return None  # asked again; the log of a broker that ended says so
            return all(task.state in TERMINAL for task in tasks) or None

        await self._await("every task to finish", finished, within_s)
        await _cancel(self._running)
        self._running.clear()
        await self._await("every node to hold the same tasks", self._same_everywhere, within_s)
        await self.read_all()
        return check(self.ledger)

    async def read_all(self) -> None:
        """List every task and read each of them, also those whose submit was never answered."""
        listing = await self._list()
        self.ledger.listed(listing)
        queues = await self.client.list_queues()
        self.ledger.counted(
            stats for stats in queues if not self.shared or stats.queue == self.queue
        )
        told = {
            task_id
            for call in self.ledger.calls
            if isinstance(call, SubmitCall)
            for task_id in call.task_ids
            if task_id
        }
        known = {task.spec.task_id for task in listing} | told
        waiting = iter(sorted(known))

        async def reader() -> None:
            for task_id in waiting:
                await self.client.read(task_id)

        await asyncio.gather(*(reader() for _ in range(16)))

    def describe(self) -> str:
        """Count what happened."""
        acknowledged = sum(
            1
            for call in self.ledger.calls
            if isinstance(call, SubmitCall) and call.answer is Answer.APPLIED
        )
        return (
            f"{len(self.ledger.calls)} calls, {self.ledger.unknown()} of them never answered;"
            f" {acknowledged} submits acknowledged, {len(self._ids)} tasks,"
            f" {sum(worker.done for worker in self.workers)} completions acknowledged,"
            f" {sum(worker.stale for worker in self.workers)} stale reports refused"
        )

    async def _await(
        self, what: str, probe: Callable[[], Awaitable[bool | None]], within_s: float
    ) -> None:
        async def watched() -> bool | None:
            for task in self._running:
                if task.done():
                    await task  # raises what ended a worker
            return await probe()

        await self.cluster.await_fact(what, watched, within_s)

    async def _same_everywhere(self) -> bool | None:
        """Whether the nodes' own disks, which may lag, hold the same tasks in the same states."""
        listings = [
            [
                (task.spec.task_id, task.state)
                for task in await self._list(task_service_pb2.READ_LEVEL_LOCAL, broker)
            ]
            for broker in self.client.brokers
        ]
        return all(listing == listings[0] for listing in listings) or None

    async def _list(
        self,
        read_level: task_service_pb2.ReadLevel.ValueType = (
            task_service_pb2.READ_LEVEL_LINEARIZABLE
        ),
        broker: Broker | None = None,
    ) -> list[task_pb2.Task]:
        queue = self.queue if self.shared else ""
        return await self.client.list_all(read_level, broker=broker, queue=queue)

    async def _submit_steadily(self) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        waiting: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            for number in itertools.count():
                if not self.held_back and len(waiting) < UNANSWERED_MAX:
                    submitting = group.create_task(self._submit_one(number))
                    waiting.add(submitting)
                    submitting.add_done_callback(waiting.discard)
                due_s = started_s + (number + 1) * SUBMIT_EVERY_S
                await asyncio.sleep(max(0.0, due_s - loop.time()))

    async def _submit_one(self, number: int) -> None:
        specs = [self._spec(f"{number}.{item}") for item in range(self._draw.choice((1, 1, 2)))]
        self._ids += [
            task_id for task_id in await self.client.submit(specs, within_s=PATIENCE_S) if task_id
        ]

    def _spec(self, salt: str) -> task_pb2.TaskSpec:
        """Most tasks are quick; some take longer than a lease, some fail or go back once."""
        plans = {
            Plan(): 60,
            Plan(work_s=self._draw.uniform(0.0, 0.05)): 25,
            Plan(work_s=1.5 * self.lease_s): 2,
            Plan(first_attempt_ends=Ending.FAIL): 8,
            Plan(first_attempt_ends=Ending.RELEASE): 5,
            Plan(first_attempt_ends=Ending.PAUSE): 3,
        }
        [plan] = self._draw.choices(list(plans), weights=list(plans.values()))
        return task_pb2.TaskSpec(
            queue=self.queue,
            type="planned",
            payload=plan.payload(f"{self.seed}.{salt}"),
            priority=self._draw.choice((0, 0, 0, 9)),
            max_attempts=50,
            # An attempt lost to a fault is made again while the run lasts.
            retry_policy=task_pb2.RetryPolicy(
                initial_backoff=seconds(BACKOFF_S), max_backoff=seconds(BACKOFF_MAX_S)
            ),
        )

    async def _read_steadily(self) -> None:
        while True:
            await asyncio.sleep(READ_EVERY_S)
            if self._ids:
                # Half of the reads go to the newest tasks, which change.
                choices = self._draw.choice((self._ids, self._ids[-NEWEST:]))
                await self.client.read(self._draw.choice(choices), within_s=PATIENCE_S)


def wrong_results(ledger: Ledger) -> set[str]:
    """Return the completed tasks whose result, as read, does not match their payload."""
    return {
        call.task_id
        for call in ledger.calls
        if isinstance(call, ReadCall)
        and call.task is not None
        and call.task.state == task_pb2.TASK_STATE_COMPLETED
        and call.task.result != work_result(call.task.spec)
    }


async def _cancel(tasks: Sequence[asyncio.Task[None] | None]) -> None:
    """Cancel the tasks; raise what they raised, except the cancellation."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    for result in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
