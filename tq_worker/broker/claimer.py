"""Claims tasks whenever there is room for some."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tq.v1.worker_service_pb2 import ClaimRequest, ClaimResponse
from tq_client.errors import OutcomeUnknownError, TqError
from tq_worker.broker.calls import Answer, Broker
from tq_worker.broker.claim_groups import ClaimGroup
from tq_worker.broker.held_tasks import HeldTasks
from tq_worker.broker.liveness import Liveness
from tq_worker.broker.slot_fairness import SlotFairness
from tq_worker.pool.pool import Pool
from tq_worker.telemetry.stats import Stats
from tq_worker.wire.lease import Stop

_logger = logging.getLogger(__name__)

TASKS_MAX = 1000
"""A call grants at most so many."""
WAIT_S = 20.0
CALL_S = 5.0
"""How long to try, beyond what a claim waits, before it is said that no broker answers."""
REPEAT_S = 300.0
"""A claim whose outcome is unknown is repeated under its id for at most this long; the brokers
remember ids for 10 min.
"""
LAST_CALL_S = 1.0
"""How long a worker that leaves waits for the answer to its last claim."""
LAST_WAIT_S = 0.25
"""The same where the claim most probably waits for tasks."""
BACKLOG_MAX = 4000
"""Nothing is claimed while so many reports wait: the brokers do not keep up, or cannot be reached.
"""
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 5.0


class Backlog(Protocol):
    """Who delivers reports."""

    def backlog(self) -> int:
        """How many have not been answered."""


@dataclass(frozen=True, slots=True)
class Appetite:
    """What to ask for."""

    tasks: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What all claims of a worker have in common."""

    worker_id: str
    queues: Sequence[str]
    lease_s: float
    wait_s: float
    """How long a call may wait for tasks."""
    broker: Broker
    held_tasks: HeldTasks
    pool: Pool
    reports: Backlog
    liveness: Liveness
    fairness: SlotFairness
    stats: Stats


class Claims:
    """Claims as many tasks of one claim group as fit, one call at a time.

    A call that finds none waits at the broker, but only for what could start at once: tasks to hold
    ahead are asked for while there is a backlog. Else the next few to come would all be this
    worker's, while others idle.
    """

    def __init__(self, parts: Parts, claim_group: ClaimGroup) -> None:
        self._parts = parts
        self._demand = claim_group
        self._broker = parts.broker
        self._held_tasks = parts.held_tasks
        self._pool = parts.pool
        self._stats = parts.stats
        self._reached = False
        """The last claim was answered."""
        self._complained = False
        self._more = False
        """The last claim got all it asked for, so there is probably more."""
        self._ahead = 0
        """How many of the tasks now asked for need not find a slot at once."""

    async def run(self) -> None:
        """Claim until cancelled."""
        pause_s = PAUSE_FIRST_S
        while True:
            request = self._request(await self._appetite())
            first_sent_s = time.monotonic()
            while not await self._claim(request):
                await asyncio.sleep(random.uniform(0.5, 1.0) * pause_s)
                pause_s = min(PAUSE_MAX_S, pause_s * 2)
                if time.monotonic() - first_sent_s > min(REPEAT_S, self._parts.lease_s):
                    # What an earlier attempt may have granted has expired, or will before long.
                    break
            else:
                pause_s = PAUSE_FIRST_S

    async def _claim(self, request: ClaimRequest) -> bool:
        """Make one claim; False if its outcome is unknown and it is to be repeated as it is."""
        self._parts.liveness.asked()
        call = asyncio.ensure_future(self._broker.claim(request, timeout_s=CALL_S))
        try:
            answer = await asyncio.shield(call)
        except asyncio.CancelledError:
            await self._finish(request, call)
            raise
        except TqError as error:
            self._stats.claims["error"] += 1
            if not self._complained:
                _logger.warning("tasks cannot be claimed", extra={"error": str(error)})
            self._reached, self._complained = False, True
            if isinstance(error, OutcomeUnknownError):
                return False
            request.request_id = uuid.uuid4().hex
            return False
        if self._complained:
            _logger.info("tasks are claimed again")
        self._reached, self._complained = True, False
        self._parts.liveness.answered()
        self._stats.claims["tasks" if answer.reply.tasks else "nothing"] += 1
        self._take(answer, request.max_tasks)
        if not answer.reply.tasks:
            # A slot that was left to this claim group is free for others now.
            self._held_tasks.room_changed()
        return True

    async def _finish(
        self, request: ClaimRequest, call: asyncio.Future[Answer[ClaimResponse]]
    ) -> None:
        """Give back what the last claim was granted: else it would wait for its lease to expire.

        A call that waits for tasks is cancelled and made again for a moment, under its id: if it
        had been granted some just now, that answer comes again. (The broker itself releases what it
        grants to a call that was cancelled before the answer left.)
        """
        waits = request.HasField("wait") and not call.done()
        if waits:
            call.cancel()
            call = asyncio.ensure_future(self._broker.claim(request, timeout_s=CALL_S))
        try:
            async with asyncio.timeout(LAST_WAIT_S if waits else LAST_CALL_S):
                answer = await call
        except (TqError, TimeoutError) as error:
            _logger.debug("last claim brought nothing", extra={"error": str(error)})
            return
        fresh = self._held_tasks.take(answer.reply.tasks, answer.sent_at_s)
        self._held_tasks.release((lease for lease, _ in fresh), Stop.SHUTDOWN.value)

    def _take(self, answer: Answer[ClaimResponse], asked: int) -> None:
        self._more = len(answer.reply.tasks) >= asked
        fresh = self._held_tasks.take(answer.reply.tasks, answer.sent_at_s)
        self._pool.hand_in(fresh, self._ahead)

    async def _appetite(self) -> Appetite:
        """Wait until a claim is worth its while."""
        while True:
            wanted = self._of_a_limit() if self._demand.limit is not None else self._of_all_else()
            if wanted is not None and self._parts.reports.backlog() < BACKLOG_MAX:
                return wanted
            await self._held_tasks.change()

    def _of_all_else(self) -> Appetite | None:
        """What to ask for where nothing but slots is the limit."""
        solo = self._demand.solo
        owed = self._parts.fairness.owed(solo=solo)
        self._ahead = self._held_tasks.ahead() if self._more and not solo and not owed else 0
        idle = self._pool.room(solo=solo) - owed
        room = self._pool.room(self._ahead, solo=solo) - owed
        # With tasks at hand for every slot a claim can wait until it is for many.
        if room <= 0 or (idle <= 0 and room * 2 < self._ahead):
            return None
        # One that finds out whether a broker is there does not wait for tasks as well.
        waits = self._reached and room <= idle
        return Appetite(min(room, TASKS_MAX), self._parts.wait_s if waits else 0.0)

    def _of_a_limit(self) -> Appetite | None:
        """What to ask for of a type of which only so many may run.

        Slots are shared with other types: where both find tasks for the same one, what waits
        behind it for too long is given back.
        """
        claim_group, fairness = self._demand, self._parts.fairness
        assert claim_group.limit is not None, "or there is none"
        self._ahead = 0
        below = claim_group.limit - self._held_tasks.unended[claim_group.types[0]]
        idle = self._pool.room(solo=claim_group.solo)
        if below > 0 and idle <= 0 and not claim_group.solo and self._held_tasks.ahead():
            # What is held ahead takes every slot, and not for long.
            idle = self._ahead = below
        if below > 0 and idle <= 0:
            fairness.wants(claim_group)
            return None
        in_turn = fairness.had(claim_group)
        if below <= 0:
            return None
        waits = self._reached and not in_turn
        return Appetite(min(below, idle, TASKS_MAX), self._parts.wait_s if waits else 0.0)

    def _request(self, appetite: Appetite) -> ClaimRequest:
        request = ClaimRequest(
            worker_id=self._parts.worker_id,
            queues=self._parts.queues,
            max_tasks=appetite.tasks,
            types=self._demand.types,
            except_types=self._demand.except_types,
            request_id=uuid.uuid4().hex,
        )
        request.lease.FromMilliseconds(round(self._parts.lease_s * 1000))
        if appetite.wait_s:
            request.wait.FromMilliseconds(round(appetite.wait_s * 1000))
        return request
