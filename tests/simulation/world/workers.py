"""Workers: most honour their deadlines, some do not; they die and pause."""

from __future__ import annotations

import asyncio
import hashlib
import random
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration
from grpc import aio

from chaos.cluster.stubs import seconds
from chaos.history.calls import ClaimCall, Ending, HeartbeatStatus, ReportCall
from tests.simulation.world.callers import SEND_S, Caller, World
from tests.simulation.world.checker import Violation
from tq.v1 import task_pb2, worker_service_pb2

QUEUES = ("red", "blue")
LEASE_S = 1.0
CLAIM_WAIT_S = 0.5
TASKS_MAX = 4
MARGIN = 0.01
"""The part of a lease by which a worker stops early, as clock rates may differ by so much."""


def work_result(payload: bytes) -> bytes:
    """The result of a handler: it follows from the payload, so that it can be checked."""
    return hashlib.sha256(payload).digest()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a task requires of its worker."""

    work_s: float = 0.0
    ends: str = "complete"
    """One of complete, fail once, fail, release once, forget once."""

    def payload(self, salt: str) -> bytes:
        return f"{self.work_s};{self.ends};{salt}".encode()

    @classmethod
    def of(cls, payload: bytes) -> Plan:
        work_s, ends, _ = payload.decode().split(";", 2)
        return cls(float(work_s), ends)


@dataclass(frozen=True, slots=True)
class Appetite:
    """The types that a worker claims."""

    types: tuple[str, ...] = ()
    but: tuple[str, ...] = ()


EVERYTHING = Appetite()


@dataclass(slots=True)
class Held:
    """A lease that this worker holds, with the instant by its own clock at which it must stop."""

    task: worker_service_pb2.ClaimedTask
    deadline_s: float
    lost: bool = False


class Worker(Caller):
    """Claims, holds, works and reports until its process ends.

    A careless worker ignores deadlines: it reports all its work, even late.
    """

    def __init__(
        self,
        world: World,
        name: str,
        draw: random.Random,
        *,
        careless: bool = False,
        appetite: Appetite = EVERYTHING,
    ) -> None:
        super().__init__(world, name, draw)
        self._careless = careless
        self._appetite = appetite
        self._held: dict[int, Held] = {}
        self._ended_once: set[str] = set()

    def begin(self) -> None:
        """Start working."""
        self.spawn(self._claim_for_ever())
        self.spawn(self._renew_for_ever())

    # ------------------------------------------------------------------ claims and leases

    async def _claim_for_ever(self) -> None:
        while True:
            for held in await self._claim(TASKS_MAX - len(self._held)):
                if self.now_s < held.deadline_s:
                    self._check_token(held)
                    self._held[held.task.token] = held
                    self.spawn(self._work(held))
            while len(self._held) >= TASKS_MAX:  # noqa: ASYNC110 - time costs nothing here
                await asyncio.sleep(0.01)

    def _check_token(self, held: Held) -> None:
        other = self._held.get(held.task.token)
        if other is not None:
            raise Violation(
                f"{self.name} was given token {held.task.token} for {held.task.spec.task_id}, and"
                f" for {other.task.spec.task_id}"
            )

    async def _claim(self, most: int) -> list[Held]:
        request_id = self.next_request_id()

        async def send(address: str, age: Duration, call: ClaimCall) -> list[Held]:
            sent_s = self.now_s
            request = worker_service_pb2.ClaimRequest(
                worker_id=self.name,
                queues=QUEUES,
                types=self._appetite.types,
                except_types=self._appetite.but,
                max_tasks=most,
                lease=seconds(LEASE_S),
                wait=seconds(CLAIM_WAIT_S),
                request_id=request_id,
                retry_age=age,
            )
            reply = await self.ask(
                address,
                "/tq.v1.WorkerService/Claim",
                request,
                worker_service_pb2.ClaimResponse,
                within_s=CLAIM_WAIT_S + SEND_S,
            )
            self.world.ledger.claimed(call, reply)
            return [Held(task, sent_s + _stops_after_s(task)) for task in reply.tasks]

        return await self.until_answered(
            lambda: self.world.ledger.claim(self.name, request_id), send
        )

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 4)
            renewed = [held for held in self._held.values() if not self._is_forgotten(held)]
            if renewed:
                await self._renew(renewed)

    async def _renew(self, leases: list[Held]) -> None:
        request = worker_service_pb2.HeartbeatRequest(worker_id=self.name)
        for held in leases:
            request.leases.add(task_id=held.task.spec.task_id, token=held.task.token)
        call = self.world.ledger.heartbeat(self.name)
        sent_s = self.now_s
        address = self.draw.choice(self.world.addresses)
        try:
            reply = await self.ask(
                address,
                "/tq.v1.WorkerService/Heartbeat",
                request,
                worker_service_pb2.HeartbeatResponse,
                within_s=LEASE_S / 3,
            )
        except aio.AioRpcError as error:
            self._note(call, error)
            return
        self.world.ledger.renewed(call, request, reply)
        for held, result in zip(leases, reply.results, strict=True):
            if result.status == HeartbeatStatus.STATUS_LEASE_LOST:
                held.lost = True
            elif self.now_s < held.deadline_s:
                length_s = result.lease.ToNanoseconds() / 1e9
                held.deadline_s = max(held.deadline_s, sent_s + length_s * (1 - MARGIN))

    # ------------------------------------------------------------------ work

    def _is_forgotten(self, held: Held) -> bool:
        plan = Plan.of(held.task.spec.payload)
        return plan.ends == "forget once" and held.task.attempt == 1

    async def _work(self, held: Held) -> None:
        plan = Plan.of(held.task.spec.payload)
        done_s = self.now_s + plan.work_s
        if self._is_forgotten(held):
            done_s = held.deadline_s
        while (left_s := done_s - self.now_s) > 0:
            if self._must_stop(held) and not self._careless:
                break
            await asyncio.sleep(min(0.05, max(left_s, 0.001)))
        self._held.pop(held.task.token, None)
        if self._is_forgotten(held) or (self._must_stop(held) and not self._careless):
            return
        await self._report(held.task, self._ending(held.task, plan))

    def _must_stop(self, held: Held) -> bool:
        return held.lost or self.now_s >= held.deadline_s

    def _ending(self, task: worker_service_pb2.ClaimedTask, plan: Plan) -> Ending:
        if plan.ends == "fail":
            return Ending.FAIL
        # A released attempt's number is used again: remember by the task.
        first = task.attempt == 1 and task.spec.task_id not in self._ended_once
        if first and plan.ends in {"fail once", "release once"}:
            self._ended_once.add(task.spec.task_id)
            if plan.ends == "fail once":
                return Ending.FAIL
            return Ending.PAUSE if task.token % 2 else Ending.RELEASE
        return Ending.COMPLETE

    async def _report(self, task: worker_service_pb2.ClaimedTask, ending: Ending) -> None:
        task_id, token = task.spec.task_id, task.token
        result = work_result(task.spec.payload) if ending is Ending.COMPLETE else b""
        report = worker_service_pb2.TaskReport(task_id=task_id, token=token)
        if ending is Ending.COMPLETE:
            report.complete.result = result
        elif ending is Ending.FAIL:
            report.fail.error = "failed as planned"
        else:
            report.release.reason = "released as planned"
            if ending is Ending.PAUSE:
                report.release.pause.FromMilliseconds(300)
                report.release.give_up_after.FromSeconds(86_400)
        request = worker_service_pb2.ReportRequest(worker_id=self.name, reports=[report])

        async def send(address: str, _: Duration, call: ReportCall) -> None:
            reply = await self.ask(
                address,
                "/tq.v1.WorkerService/Report",
                request,
                worker_service_pb2.ReportResponse,
                within_s=SEND_S,
            )
            self.world.ledger.reported(call, reply.results[0])

        await self.until_answered(
            lambda: self.world.ledger.report(self.name, task_id, token, ending, result), send
        )


def _stops_after_s(task: worker_service_pb2.ClaimedTask) -> float:
    """How long after its claim was sent a worker stops."""
    waited_s = task.waited.ToNanoseconds() / 1e9
    return waited_s + task.lease.ToNanoseconds() / 1e9 * (1 - MARGIN)


def drawn_spec(draw: random.Random, salt: str) -> task_pb2.TaskSpec:
    """Most tasks are quick; some are slow, fail, come back, are forgotten, or are not due yet."""
    ends = draw.choices(
        ("complete", "fail once", "fail", "release once", "forget once"), (70, 10, 6, 8, 6)
    )[0]
    plan = Plan(round(draw.choice((0.0, 0.0, 0.02, 0.3, 1.5)), 3), ends)
    spec = task_pb2.TaskSpec(
        queue=draw.choice(QUEUES),
        type="planned",
        payload=plan.payload(salt),
        priority=draw.choice((0, 0, 9)),
        max_attempts=2 if ends == "fail" else 50,
    )
    spec.retry_policy.initial_backoff.FromMilliseconds(50)
    spec.retry_policy.max_backoff.FromMilliseconds(500)
    return spec
