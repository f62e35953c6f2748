"""A worker made from generated stubs alone, which honours its deadlines."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from chaos.cluster.stubs import Broker, StubCaller, UnansweredError, seconds
from chaos.history.calls import (
    ClaimCall,
    Ending,
    HeartbeatCall,
    HeartbeatStatus,
    ReportCall,
    ReportStatus,
)
from chaos.history.lease_spans import CLOCK_MARGIN
from chaos.history.record import Ledger
from tq.v1 import task_pb2, worker_service_pb2

ECHO = "echo"
"""The type of tasks whose result is their payload; any other's is its digest."""
CLAIM_WAIT_S = 1.0
SEND_S = 1.0
RETRY_AFTER_S = 0.02
PAUSE_S = 0.3


def work_result(spec: task_pb2.TaskSpec) -> bytes:
    """The result of a task's handler: it follows from the task, so that it can be checked."""
    if spec.type == ECHO:
        return spec.payload
    return hashlib.sha256(spec.payload).digest()


@dataclass(slots=True)
class Held:
    """A lease that this worker holds."""

    task: worker_service_pb2.ClaimedTask
    deadline_s: float
    lost: asyncio.Event


@dataclass(frozen=True, slots=True)
class Plan:
    """What a task asks of the worker; the submitter writes it in the payload."""

    work_s: float = 0.0
    first_attempt_ends: Ending = Ending.COMPLETE
    permanent: bool = False
    """For a failure: no retry helps."""

    def payload(self, salt: str) -> bytes:
        """Encode the plan, with a salt that makes the payload unique."""
        ending = self.first_attempt_ends.value
        return f"{self.work_s} {ending} {self.permanent:d} {salt}".encode()

    @classmethod
    def of(cls, payload: bytes) -> Plan:
        """Decode the plan of a payload."""
        work_s, ending, permanent, _ = payload.decode().split(" ", 3)
        return cls(float(work_s), Ending(ending), permanent == "1")


class StubWorker(StubCaller):
    """Runs until cancelled; ``done`` counts its acknowledged completions."""

    def __init__(
        self,
        addresses: Sequence[str],
        ledger: Ledger,
        worker_id: str,
        queue: str,
        *,
        lease_s: float = 2.0,
        tasks_max: int = 8,
        send_s: float = SEND_S,
    ) -> None:
        super().__init__(addresses, ledger, worker_id)
        self._send_s = send_s
        self._queue = queue
        self._lease_s = lease_s
        self._tasks_max = tasks_max
        self._held: dict[int, Held] = {}
        self._room = asyncio.Event()
        self._ended_as_planned: set[str] = set()
        self.done = 0
        self.stale = 0

    async def run(self) -> None:
        """Claim, hold and report until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_all())
            while True:
                room = self._tasks_max - len(self._held)
                for claimed, deadline_s in await self.claim(max_tasks=max(1, room)):
                    if time.monotonic() < deadline_s:
                        held = Held(claimed, deadline_s, asyncio.Event())
                        self._held[claimed.token] = held
                        group.create_task(self._work(held))
                while len(self._held) >= self._tasks_max:
                    self._room.clear()
                    await self._room.wait()

    async def claim(
        self, *, max_tasks: int = 1, wait_s: float = CLAIM_WAIT_S
    ) -> list[tuple[worker_service_pb2.ClaimedTask, float]]:
        """Claim once, repeated until it is answered; each task with the deadline to stop by."""
        request_id = str(uuid.uuid4())

        async def send(
            broker: Broker, age: Duration, call: ClaimCall
        ) -> list[tuple[worker_service_pb2.ClaimedTask, float]]:
            request = worker_service_pb2.ClaimRequest(
                worker_id=self.actor,
                queues=[self._queue],
                max_tasks=max_tasks,
                lease=seconds(self._lease_s),
                wait=seconds(wait_s),
                request_id=request_id,
                retry_age=age,
            )
            reply = await broker.workers.Claim(request, timeout=wait_s + self._send_s)
            self.ledger.claimed(call, reply)
            return [
                (
                    task,
                    call.began_s
                    + task.waited.ToNanoseconds() / 1e9
                    + task.lease.ToNanoseconds() / 1e9 * (1 - CLOCK_MARGIN),
                )
                for task in reply.tasks
            ]

        return await self.until_answered(
            lambda: self.ledger.claim(self.actor, request_id), send, within_s=60
        )

    async def claim_one(self, within_s: float) -> worker_service_pb2.ClaimedTask:
        """Claim until there is a task; the waits are short, as a broker may be silent."""
        async with asyncio.timeout(within_s):
            while True:
                for task, _ in await self.claim():
                    return task

    async def report(
        self,
        task_id: str,
        token: int,
        ending: Ending,
        result: bytes = b"",
        *,
        permanent: bool = False,
        retry_after_s: float = RETRY_AFTER_S,
    ) -> worker_service_pb2.ReportResult:
        """Report how an attempt ended, repeated until it is answered.

        ``permanent`` and ``retry_after_s`` are of a failure.
        """
        report = worker_service_pb2.TaskReport(task_id=task_id, token=token)
        if ending is Ending.COMPLETE:
            report.complete.result = result
        elif ending is Ending.FAIL:
            report.fail.error = "failed on purpose"
            report.fail.permanent = permanent
            report.fail.retry_after.CopyFrom(seconds(retry_after_s))
        else:
            report.release.reason = "released on purpose"
            if ending is Ending.PAUSE:
                report.release.pause.CopyFrom(seconds(PAUSE_S))
                report.release.give_up_after.FromSeconds(86_400)
        request = worker_service_pb2.ReportRequest(worker_id=self.actor, reports=[report])

        async def send(
            broker: Broker, _: Duration, call: ReportCall
        ) -> worker_service_pb2.ReportResult:
            reply = await broker.workers.Report(request, timeout=self._send_s)
            self.ledger.reported(call, reply.results[0])
            return reply.results[0]

        return await self.until_answered(
            lambda: self.ledger.report(self.actor, task_id, token, ending, result),
            send,
            within_s=60,
        )

    async def heartbeat(self, leases: Sequence[worker_service_pb2.ClaimedTask]) -> None:
        """Renew once; without an answer the deadlines stay as they are."""
        request = worker_service_pb2.HeartbeatRequest(worker_id=self.actor)
        for task in leases:
            request.leases.add(task_id=task.spec.task_id, token=task.token)

        async def send(
            broker: Broker, _: Duration, call: HeartbeatCall
        ) -> worker_service_pb2.HeartbeatResponse:
            reply = await broker.workers.Heartbeat(request, timeout=SEND_S)
            self.ledger.renewed(call, request, reply)
            self._take(call.began_s, request, reply)
            return reply

        await self.until_answered(
            lambda: self.ledger.heartbeat(self.actor), send, within_s=self._lease_s
        )

    def _take(
        self,
        sent_s: float,
        request: worker_service_pb2.HeartbeatRequest,
        reply: worker_service_pb2.HeartbeatResponse,
    ) -> None:
        for lease, result in zip(request.leases, reply.results, strict=True):
            held = self._held.get(lease.token)
            if held is None or time.monotonic() > held.deadline_s:
                continue
            if result.status == HeartbeatStatus.STATUS_LEASE_LOST:
                held.lost.set()
            else:
                length_s = result.lease.ToNanoseconds() / 1e9
                deadline_s = sent_s + length_s * (1 - CLOCK_MARGIN)
                held.deadline_s = max(held.deadline_s, deadline_s)

    async def _renew_all(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 4)
            if self._held:
                try:
                    await self.heartbeat([held.task for held in self._held.values()])
                except UnansweredError:
                    continue  # the deadlines stand, and the leases run out by them

    async def _work(self, held: Held) -> None:
        task = held.task
        plan = Plan.of(task.spec.payload)
        try:
            if not await self._busy(held, plan.work_s):
                return
            ending = self._ending(task, plan)
        finally:
            # Another lease may have taken its place: a split cluster may grant a token twice, and
            # the checker of the history must find that.
            if self._held.get(task.token) is held:
                del self._held[task.token]
            self._room.set()
        result = work_result(task.spec) if ending is Ending.COMPLETE else b""
        answer = await self.report(
            task.spec.task_id, task.token, ending, result, permanent=plan.permanent
        )
        if answer.status == ReportStatus.STATUS_LEASE_LOST:
            self.stale += 1
        elif ending is Ending.COMPLETE:
            self.done += 1

    def _ending(self, task: worker_service_pb2.ClaimedTask, plan: Plan) -> Ending:
        """End as planned, but only once: a released attempt's number is used again."""
        if task.attempt > 1 or task.spec.task_id in self._ended_as_planned:
            return Ending.COMPLETE
        self._ended_as_planned.add(task.spec.task_id)
        return plan.first_attempt_ends

    async def _busy(self, held: Held, work_s: float) -> bool:
        """Work for a while; False when the lease was lost or its deadline passed before the end."""
        done_s = time.monotonic() + work_s
        while time.monotonic() < done_s:
            left_s = min(done_s, held.deadline_s) - time.monotonic()
            if held.lost.is_set() or left_s <= 0:
                return False
            try:
                await asyncio.wait_for(held.lost.wait(), min(left_s, 0.1))
            except TimeoutError:
                continue
        return not held.lost.is_set() and time.monotonic() < held.deadline_s
