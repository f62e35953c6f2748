"""Clients: processes that call brokers until they are answered, and record every call."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc import aio

from chaos.cluster.stubs import reason_of, seconds
from chaos.history.calls import Call, CancelCall, PurgeCall, ReadCall, RedriveCall, SubmitCall
from chaos.history.record import LEDGER_LABEL, Ledger, ledger_label
from tests.simulation.world.calls import ModelledCalls
from tests.simulation.world.checker import Violation
from tests.simulation.world.hardware import Oscillator
from tests.simulation.world.virtual_loop import HostLoop, VirtualLoop
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2

CallT = TypeVar("CallT", bound=Call)
ReplyT = TypeVar("ReplyT")
MessageT = TypeVar("MessageT", bound=Message)

SEND_S = 1.0
"""How long one sending may take before another broker is asked."""
RETRY_S = 0.03
RETRY_MAX_S = 0.3
GIVE_UP_S = 200.0
NOT_APPLIED = frozenset({"NOT_LEADER", "NO_LEADER", "OVERLOADED"})
MAYBE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True)
class World:
    """The environment of every caller."""

    loop: VirtualLoop
    calls: ModelledCalls
    addresses: Sequence[str]
    ledger: Ledger


class Caller:
    """A process with a name that calls brokers."""

    def __init__(self, world: World, name: str, draw: random.Random) -> None:
        self.name = name
        self.world = world
        self.draw = draw
        oscillator = Oscillator.drawn(draw)
        self.process = HostLoop(world.loop, started_s=oscillator.started_s, rate=oscillator.rate)
        self._numbers = itertools.count(1)
        self._under_way = 0
        self._turns = itertools.count(draw.randrange(len(world.addresses)))

    @property
    def now_s(self) -> float:
        """The time by this process's clock."""
        return self.process.time()

    def next_request_id(self) -> str:
        """A unique request id."""
        return f"{self.name}-{next(self._numbers)}"

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the work in this process; an error of it ends the simulation."""
        self._under_way += 1
        self.process.create_task(work).add_done_callback(self._ended)

    @property
    def busy(self) -> bool:
        """Whether any spawned work has not ended."""
        return self._under_way > 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way -= 1
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.world.loop.fail(error)

    async def ask(
        self, address: str, path: str, request: Message, reply: type[MessageT], *, within_s: float
    ) -> MessageT:
        """Make one call on the wire."""
        raw = await self.world.calls.call(
            self.name, self.process, address, path, request.SerializeToString(), timeout_s=within_s
        )
        return reply.FromString(raw)

    async def until_answered(
        self,
        begin: Callable[[], CallT],
        send: Callable[[str, Duration, CallT], Awaitable[ReplyT]],
    ) -> ReplyT:
        """Send until there is an answer; each sending is a call of its own."""
        first_s = self.now_s
        addresses = self.world.addresses
        turn = next(self._turns)
        for sending in itertools.count():
            call = begin()
            address = addresses[(turn + sending) % len(addresses)]
            try:
                return await send(address, seconds(self.now_s - first_s), call)
            except aio.AioRpcError as error:
                self._note(call, error)
            waited_s = self.now_s - first_s
            assert waited_s < GIVE_UP_S, f"{self.name}: no answer in {waited_s} s: {call}"
            await asyncio.sleep(min(RETRY_S * (sending + 1), RETRY_MAX_S))
        raise AssertionError("it counts for ever")

    def _note(self, call: Call, error: aio.AioRpcError) -> None:
        """Record what a failed call shows; raise if no retry helps."""
        reason = reason_of(error)
        detail = f"{error.code().name} {reason}".strip()
        if reason in NOT_APPLIED or reason == "UNSUPPORTED":  # the cluster version is yet to rise
            self.world.ledger.refused(call, detail)
        elif reason == "OUTCOME_UNKNOWN" or (not reason and error.code() in MAYBE):
            self.world.ledger.unanswered(call, detail)
        else:
            raise AssertionError(f"{self.name}: {detail} {error.details()}: {call}")


class Client(Caller):
    """Submits, reads, cancels, redrives."""

    def __init__(self, world: World, name: str, draw: random.Random) -> None:
        super().__init__(world, name, draw)
        self.task_ids: list[str] = []

    async def submit(self, specs: Sequence[task_pb2.TaskSpec]) -> None:
        """Create tasks, each labelled for the ledger."""
        request_id = self.next_request_id()
        for item, spec in enumerate(specs):
            spec.labels[LEDGER_LABEL] = ledger_label(request_id, item)

        async def send(address: str, age: Duration, call: SubmitCall) -> list[str]:
            request = task_service_pb2.SubmitRequest(
                request_id=request_id, retry_age=age, tasks=specs
            )
            reply = await self.ask(
                address,
                "/tq.v1.TaskService/Submit",
                request,
                task_service_pb2.SubmitResponse,
                within_s=SEND_S,
            )
            refused = [result.error for result in reply.results if result.HasField("error")]
            if refused:
                raise Violation(f"{self.name}: {request_id} was refused: {refused[0].message}")
            ids = [result.task.task_id for result in reply.results]
            self.world.ledger.submitted(call, ids)
            return ids

        self.task_ids += await self.until_answered(
            lambda: self.world.ledger.submit(self.name, request_id, len(specs)), send
        )

    async def submit_together(self, specs: Sequence[task_pb2.TaskSpec]) -> list[str]:
        """Create tasks, all or none, each labelled for the ledger; return their ids."""
        request_id = self.next_request_id()
        for item, spec in enumerate(specs):
            spec.labels[LEDGER_LABEL] = ledger_label(request_id, item)

        async def send(address: str, age: Duration, call: SubmitCall) -> list[str]:
            request = task_service_pb2.SubmitTogetherRequest(
                request_id=request_id, retry_age=age, tasks=specs
            )
            reply = await self.ask(
                address,
                "/tq.v1.TaskService/SubmitTogether",
                request,
                task_service_pb2.SubmitTogetherResponse,
                within_s=SEND_S,
            )
            ids = [task.task_id for task in reply.tasks]
            self.world.ledger.submitted(call, ids)
            return ids

        ids = await self.until_answered(
            lambda: self.world.ledger.submit(self.name, request_id, len(specs), together=True),
            send,
        )
        self.task_ids += ids
        return ids

    async def read(self, task_id: str) -> None:
        """Read one task, linearizably."""

        async def send(address: str, _: Duration, call: ReadCall) -> None:
            request = task_service_pb2.GetTaskRequest(task_id=task_id)
            try:
                reply = await self.ask(
                    address,
                    "/tq.v1.TaskService/GetTask",
                    request,
                    task_service_pb2.GetTaskResponse,
                    within_s=SEND_S,
                )
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                self.world.ledger.found(call, None)
            else:
                self.world.ledger.found(call, reply.task)

        await self.until_answered(lambda: self.world.ledger.read(self.name, task_id), send)

    async def cancel(self, task_id: str) -> None:
        """Cancel one task."""
        request_id = self.next_request_id()

        async def send(address: str, age: Duration, call: CancelCall) -> None:
            request = task_service_pb2.CancelTaskRequest(
                task_id=task_id, request_id=request_id, retry_age=age
            )
            reply = await self.ask(
                address,
                "/tq.v1.TaskService/CancelTask",
                request,
                task_service_pb2.CancelTaskResponse,
                within_s=SEND_S,
            )
            self.world.ledger.cancelled(call, reply.state)

        await self.until_answered(
            lambda: self.world.ledger.cancel(self.name, request_id, task_id), send
        )

    async def redrive(self, queue: str) -> None:
        """Redrive the dead letters of a queue."""
        request_id = self.next_request_id()

        async def send(address: str, _: Duration, call: RedriveCall) -> None:
            request = queue_service_pb2.RedriveRequest(queue=queue, request_id=request_id)
            try:
                reply = await self.ask(
                    address,
                    "/tq.v1.QueueService/Redrive",
                    request,
                    queue_service_pb2.RedriveResponse,
                    within_s=SEND_S,
                )
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                self.world.ledger.refused(call, "no such queue yet")
            else:
                self.world.ledger.changed(call, reply.redriven)

        await self.until_answered(
            lambda: self.world.ledger.redrive(self.name, request_id, queue=queue), send
        )

    async def purge(self, queue: str) -> int:
        """Purge a queue at once; return how many tasks waited."""
        request_id = self.next_request_id()

        async def send(address: str, age: Duration, call: PurgeCall) -> int:
            request = queue_service_pb2.PurgeQueueRequest(
                queue=queue, at_once=True, request_id=request_id, retry_age=age
            )
            try:
                reply = await self.ask(
                    address,
                    "/tq.v1.QueueService/PurgeQueue",
                    request,
                    queue_service_pb2.PurgeQueueResponse,
                    within_s=SEND_S,
                )
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                self.world.ledger.refused(call, "no such queue yet")
                return 0
            self.world.ledger.changed(call, reply.cancelled)
            return reply.cancelled

        return await self.until_answered(
            lambda: self.world.ledger.purge(self.name, request_id, queue, at_once=True), send
        )

    async def list_all(self, address: str) -> list[task_pb2.Task]:
        """Every task, through one broker that can answer."""
        tasks: list[task_pb2.Task] = []
        request = task_service_pb2.ListTasksRequest(page_size=1_000)
        while True:
            page = await self.ask(
                address,
                "/tq.v1.TaskService/ListTasks",
                request,
                task_service_pb2.ListTasksResponse,
                within_s=10,
            )
            tasks += page.tasks
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return tasks
