"""Claims tasks whenever there is room for them."""

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
from tq_common.backoff import Pauses
from tq_common.limits import CLAIM_TASKS_MAX
from tq_worker.broker.calls import Answer, Broker
from tq_worker.broker.claim_groups import ClaimGroup
from tq_worker.broker.held_tasks import HeldTasks
from tq_worker.broker.liveness import Liveness
from tq_worker.broker.slot_fairness import SlotFairness
from tq_worker.pool.pool import Pool
from tq_worker.telemetry.stats import Stats
from tq_worker.wire.lease import Stop

_logger = logging.getLogger(__name__)

WAIT_S = 20.0
CALL_S = 5.0
"""How long a claim is tried, beyond its wait, before the worker logs that no broker answers."""
REPEAT_S = 300.0
"""How long a claim whose outcome is unknown is repeated under its id, at most; the brokers remember
ids for 10 min.
"""
LAST_CALL_S = 1.0
"""How long a leaving worker waits for the answer to its last claim."""
LAST_WAIT_S = 0.25
"""The same if the claim probably waits for tasks."""
BACKLOG_MAX = 4000
"""Nothing is claimed while so many reports wait: the brokers do not keep up, or cannot be reached.
"""
PAUSE_FIRST_S = 0.1
PAUSE_MAX_S = 5.0


class Backlog(Protocol):
    """What delivers reports."""

    def backlog(self) -> int:
        """How many reports have not been answered."""


@dataclass(frozen=True, slots=True)
class Appetite:
    """How many tasks to claim, and how long to wait for them."""

    tasks: int
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The common parts of all claims of a worker."""

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

    A call that finds no tasks waits at the broker, but only for tasks that could start at once.
    Prefetched tasks are claimed only while there is a backlog: otherwise this worker would take
    the next tasks while others idle.
    """

    def __init__(self, parts: Dependencies, claim_group: ClaimGroup) -> None:
        self._parts = parts
        self._demand = claim_group
        self._broker = parts.broker
        self._held_tasks = parts.held_tasks
        self._pool = parts.pool
        self._stats = parts.stats
        self._reached = False
        """Whether the last claim was answered."""
        self._complained = False
        self._more = False
        """Whether the last claim was granted all it asked for, so that there are probably more."""
        self._ahead = 0
        """How many of the requested tasks are prefetched: they need no slot at once."""

    async def run(self) -> None:
        """Claim until cancelled."""
        pauses = Pauses(PAUSE_FIRST_S, PAUSE_MAX_S, share_min=0.5, draw=random)
        while True:
            request = self._request(await self._appetite())
            first_sent_s = time.monotonic()
            while not await self._claim(request):
                await asyncio.sleep(pauses.next_s())
                if time.monotonic() - first_sent_s > min(REPEAT_S, self._parts.lease_s):
                    # The leases that an earlier attempt may have been granted are over, or nearly.
                    break
            else:
                pauses.reset()

    async def _claim(self, request: ClaimRequest) -> bool:
        """Make one claim; False if it failed and must be repeated."""
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
            # A slot that was reserved for this claim group is free for others now.
            self._held_tasks.room_changed()
        return True

    async def _finish(
        self, request: ClaimRequest, call: asyncio.Future[Answer[ClaimResponse]]
    ) -> None:
        """Give back the tasks of the last claim, which else would wait for their leases to expire.

        A call that waits for tasks is cancelled and repeated for a moment, under its id: if it had
        just been granted tasks, that answer comes again. (If the call is cancelled before its
        answer is sent, the broker itself releases the tasks.)
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
        """Wait until a claim is worthwhile."""
        while True:
            wanted = self._of_a_limit() if self._demand.limit is not None else self._of_all_else()
            if wanted is not None and self._parts.reports.backlog() < BACKLOG_MAX:
                return wanted
            await self._held_tasks.change()

    def _of_all_else(self) -> Appetite | None:
        """What to claim if only slots are the limit; None: nothing."""
        solo = self._demand.solo
        owed = self._parts.fairness.owed(solo=solo)
        self._ahead = self._held_tasks.ahead() if self._more and not solo and not owed else 0
        idle = self._pool.room(solo=solo) - owed
        room = self._pool.room(self._ahead, solo=solo) - owed
        # While there are tasks for every slot, a claim can wait until it is for many.
        if room <= 0 or (idle <= 0 and room * 2 < self._ahead):
            return None
        # A claim that tests whether a broker answers does not also wait for tasks.
        waits = self._reached and room <= idle
        return Appetite(min(room, CLAIM_TASKS_MAX), self._parts.wait_s if waits else 0.0)

    def _of_a_limit(self) -> Appetite | None:
        """What to claim of a type with a limit; None: nothing.

        Slots are shared with other types. If two claims fill the same slot, a task that waits for
        it too long is given back.
        """
        claim_group, fairness = self._demand, self._parts.fairness
        assert claim_group.limit is not None, "or there is none"
        self._ahead = 0
        below = claim_group.limit - self._held_tasks.unended[claim_group.types[0]]
        idle = self._pool.room(solo=claim_group.solo)
        if below > 0 and idle <= 0 and not claim_group.solo and self._held_tasks.ahead():
            # Prefetched tasks take every slot, but not for long.
            idle = self._ahead = below
        if below > 0 and idle <= 0:
            fairness.wants(claim_group)
            return None
        in_turn = fairness.had(claim_group)
        if below <= 0:
            return None
        waits = self._reached and not in_turn
        return Appetite(min(below, idle, CLAIM_TASKS_MAX), self._parts.wait_s if waits else 0.0)

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
