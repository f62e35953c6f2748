"""What only a leader does, behind one set of coroutines; the service calls nothing else here."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from tq.v1 import cluster_service_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.clock import Clock
from tq_cluster.core.features import REGISTRY
from tq_cluster.core.kernel import request_ids
from tq_cluster.core.kernel.batch import CLUSTER_VERSION_FIRST, Draw
from tq_cluster.core.kernel.validation import check_claim
from tq_cluster.core.model.events import TaskEvent
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.core.model.namespaces import ONLY_DEFAULT, Namespaces
from tq_cluster.core.model.operations import (
    Caller,
    Claim,
    FormCluster,
    Operation,
    Outcome,
    Refused,
    Replied,
    Report,
    Submit,
    SubmitTogether,
    Unfinished,
    Wakeups,
)
from tq_cluster.core.model.types import AppliedAt, FencingToken, TaskId
from tq_cluster.core.reads import pages, queries
from tq_cluster.core.reads.steps import Reader, Steps
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.errors import (
    NotAppliedError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
)
from tq_cluster.leader.claimants import Claimant, Claimants
from tq_cluster.leader.clock_watch import ClockWatch
from tq_cluster.leader.cluster_tasks import ClusterTasks
from tq_cluster.leader.committer import Committer, DraftWorkspace
from tq_cluster.leader.heartbeats import Heartbeats
from tq_cluster.leader.hooks import LeaderHooks
from tq_cluster.leader.housekeeping import Housekeeping
from tq_cluster.leader.leases import LeaseTable
from tq_cluster.leader.log_time import LogTime
from tq_cluster.leader.sampler import Sampler
from tq_cluster.leader.sources import ExpiredLeases, InTurns
from tq_cluster.leader.ticker import Ticker
from tq_cluster.leader.turns import let_go
from tq_cluster.leader.waiters import Waiters
from tq_cluster.leader.workers import WorkerRegistry
from tq_cluster.raft.log_api import Log, LogStatus, Role
from tq_cluster.reading import Reading

_logger = logging.getLogger(__name__)

LEASES_SLICE = 500
LOOKS_MIN = 64
"""How many times at most a claim that may not wait is decided again because it could not look
everywhere at once: each time it finishes at least one more queue.
"""
EVENTS = 100
"""How many tasks' events are written in one turn of the loop: a few milliseconds."""
DIGEST_BYTES_MAX = 1 << 20
"""A request larger than this is hashed in another thread: 10 MiB take 12 ms or more.

Smaller ones are not: handing them over and back takes longer than hashing them.
"""
FORMATION_S = 0.2
"""How often the leader of a new cluster asks for the members, until it can record them."""

Answer = TypeVar("Answer")


class State(Protocol):
    """The applied state, for reads and drafts."""

    @property
    def applied(self) -> AppliedAt:
        """The last entry applied."""

    def view(self) -> View:
        """Return everything applied so far."""

    def row_count(self) -> int:
        """Return the number of rows; cheap."""

    def workspace(self) -> DraftWorkspace:
        """Return a draft over it, void once another entry is applied."""


@dataclass(frozen=True, slots=True)
class Formation:
    """The members of a new cluster: its first leader records them."""

    cluster_id: str
    members: Mapping[str, str]
    """Node id to incarnation."""


class Leader:
    """Serves while this node leads; every method raises NotLeaderError while it does not."""

    def __init__(
        self,
        *,
        node_id: str,
        log: Log,
        state: State,
        reading: Reading,
        clock: Clock,
        draw: Draw,
        members: int,
        formation: Callable[[], Formation | None],
        fatal: Callable[[BaseException], None],
        hooks: LeaderHooks | None = None,
        disk_pressure: Callable[[], bool] = lambda: False,
        namespaces: Namespaces = ONLY_DEFAULT,
    ) -> None:
        """Wire the parts together.

        ``members`` is the number of nodes in the cluster; ``formation`` is called if the state
        names none. ``fatal`` ends the process. While ``disk_pressure`` holds, no task is created.
        """
        self._log = log
        self._namespaces = namespaces
        self._state = state
        self._reading = reading
        self._formation = formation
        self._hooks = hooks or LeaderHooks()
        self._fatal = fatal
        self._disk_pressure = disk_pressure
        self._loop = asyncio.get_running_loop()
        self._events: deque[TaskEvent] = deque()
        self._hashing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tq-digest")
        self._log_time = LogTime(clock, log.wall_offsets_ms, members)
        self._clock_watch = ClockWatch(self._log_time)
        self._leases = LeaseTable(self._loop.time, let_go)
        self._workers = WorkerRegistry(self._loop.time, let_go)
        self._claimants = Claimants()
        self._watchers: Waiters[tuple[int, TaskId]] = Waiters()
        """By namespace and task."""
        self._tellings: dict[tuple[int, str, bool], asyncio.Task[Replied | Refused]] = {}
        """Answers to WaitTask that were requested in this turn of the loop."""
        self._cluster_tasks = ClusterTasks(
            node_id=node_id,
            log=log,
            state=state,
            now_ms=self._log_time.now_ms,
            fatal=fatal,
            differed=self._hooks.differed,
            disk_pressure=disk_pressure,
        )
        self.hashed = self._cluster_tasks.hashed
        """To be called with every range of the state that this node hashed because of an entry."""
        self._housekeeping = Housekeeping(
            [
                ExpiredLeases(self._leases),
                *(
                    InTurns(
                        work, namespaces, state.view, lambda: state.applied, self._log_time.instants
                    )
                    for work in REGISTRY.timed_work
                ),
                *self._cluster_tasks.sources(),
            ],
            now_s=self._loop.time,
            done=self._hooks.housekept,
            failed=self._hooks.undecidable,
        )
        self._ticker = Ticker(
            leases=self._leases,
            due=self._housekeeping.due,
            quiet_s=self._housekeeping.quiet_s,
            fatal=fatal,
        )
        self._committer = Committer(
            log=log,
            state=state,
            now_ms=self._log_time.now_ms,
            stepped_ms=lambda: self._log_time.stepped_ms,
            draw=draw,
            housekeeping=self._housekeeping,
            claims_for=self._claimants.take_for,
            applied=self._applied,
            hooks=self._hooks,
            fatal=fatal,
        )
        self._heartbeats = Heartbeats(
            view=state.view,
            leases=self._leases,
            workers=self._workers,
            ending=self._committer.ending,
            confirm=self._confirm,
            leadership=self._this_leadership,
        )
        self._sampler = Sampler(
            view=state.view,
            namespaces=namespaces,
            workers=self._workers,
            leases=lambda: len(self._leases),
            now_ms=self._log_time.now_ms,
            now_s=self._loop.time,
            found=self._hooks.sampled,
        )
        self._leadership: int | None = None
        """The term this node serves in, or None while it does not."""
        self._taking_over: asyncio.Task[None] | None = None
        self._stopped = False
        log.on_role_change(self._role_changed)
        log.on_decidable(self._decidable)

    # ---------------------------------------------------------------- what the service asks

    def serving(self) -> bool:
        """Whether this node leads and has begun to decide."""
        return self._leadership is not None

    def look_at_clocks(self) -> float:
        """Return how many seconds log time is ahead of the clocks; 0 if another node leads."""
        return self._clock_watch.look() if self.serving() else 0.0

    @property
    def clock_message(self) -> str:
        """A warning about the clocks for operators; empty while there is none."""
        return self._clock_watch.message

    async def submit(self, operation: Operation) -> Outcome:
        """Have one operation decided, committed and applied; raises what Committer.submit does."""
        if isinstance(operation, Submit | SubmitTogether):
            if self._disk_pressure():
                operation = replace(operation, disk_pressure=True)
            if operation.request.request_id and operation.request.ByteSize() > DIGEST_BYTES_MAX:
                operation = replace(operation, body_digest=await self._digest(operation))
        outcome = await self._committer.submit(operation)
        if isinstance(operation, Report) and isinstance(outcome, Replied):
            assert isinstance(outcome.reply, worker_service_pb2.ReportResponse)
            namespace = operation.caller.namespace
            self._workers.reported(namespace, operation.request, outcome.reply)
        return outcome

    async def _digest(self, operation: Submit | SubmitTogether) -> bytes:
        """Hash a large request in another thread, so that the loop goes on meanwhile."""
        if self._stopped:
            raise NotLeaderError(self._log.status().leader_id)
        return await self._loop.run_in_executor(
            self._hashing, request_ids.digest_of, operation.request
        )

    async def read(self, query: Callable[[Reader], Steps[Answer]]) -> Answer:
        """Answer ``query`` from a state that holds every write acknowledged before this call.

        The confirmation stays valid: every later step sees the same state or a newer one.
        """
        await self._confirm()
        return await self._reading.answer(query, self._open_view)

    def _open_view(self) -> AbstractContextManager[View]:
        return nullcontext(self._state.view())

    async def heartbeat(
        self, request: worker_service_pb2.HeartbeatRequest, caller: Caller
    ) -> Replied | Refused:
        """Renew the listed leases that are live, from the moment of this call."""
        return await self._heartbeats.answer(request, caller.namespace)

    async def claim(self, operation: Claim, wait_s: float, received_s: float) -> Outcome:
        """Lease ready tasks, waiting up to ``wait_s`` for some.

        ``received_s`` is when the call arrived, by the event loop's clock.
        """
        # Before the call is recorded or waits: every leader would answer the same.
        fault = check_claim(operation.request, DEFAULT_LIMITS)
        if fault is not None:
            return fault
        give_up_s = self._loop.time() + wait_s
        namespace = operation.caller.namespace
        mark, leadership = self._log.mark(), self._leadership
        operation = replace(operation, waits=wait_s > 0)
        looks = not operation.waits or self._may_find(operation)
        with (
            self._workers.claiming(namespace, operation.request),
            self._claimants.join(operation) as claimant,
        ):
            while True:
                if looks:
                    outcome = await self._claim_once(operation, received_s, give_up_s, claimant)
                    if outcome is not None:
                        return outcome
                woken = await self._wait_for_tasks(claimant, give_up_s)
                if looks and not woken:
                    break
                # In the end also if it has not looked yet: its id may be one of an earlier claim.
                looks = True
        led_since = self._leadership == leadership and self._log.led_since(mark)
        if operation.waits and not led_since:
            await self._confirm()
        return Replied(reply=worker_service_pb2.ClaimResponse())

    def give_back(self, operation: Claim, outcome: Outcome) -> None:
        """Release tasks that a claim granted to a caller which could not receive the answer."""
        if self.serving():
            self._committer.give_back(operation, outcome)

    async def wait_task(
        self,
        request: task_service_pb2.WaitTaskRequest,
        caller: Caller,
        wait_s: float,
        holds: Callable[[int], None],
    ) -> Replied | Refused:
        """Answer with the task once it is terminal, or as it is after ``wait_s``.

        ``holds`` is called with the answer's size, as ``Reader.holds`` is.
        """
        give_up_s = self._loop.time() + wait_s
        task_id = TaskId(request.task_id)

        def ahead(view: Reader) -> Steps[tuple[bool, int]]:
            yield from ()
            return queries.look_ahead(Scope.of(view, caller.namespace), task_id)

        # A waiting call holds no part of the task.
        with self._watchers.join((caller.namespace, task_id)) as waiter:
            if not self.serving():
                await self._confirm()
                if not self.serving():
                    raise NotLeaderError(self._log.status().leader_id)
            mark, check_leadership = self._log.mark(), self._this_leadership()
            while True:
                # Perhaps in an older state than the caller knows. A task that is unfinished there
                # is waited for all the same: the wait ends with the leadership.
                finished, size = await self._reading.answer(ahead, self._open_view)
                if finished or not await waiter.wait(give_up_s - self._loop.time()):
                    break
                check_leadership()
        # Mostly the entry that finished the task has confirmed it.
        if not self._log.led_since(mark):
            await self._confirm()
        if size and not request.omit_payload:
            holds(size)
        return await self._told(request, caller.namespace)

    async def list_workers(
        self, request: worker_service_pb2.ListWorkersRequest, caller: Caller
    ) -> Replied | Refused:
        """List the workers of the caller's namespace that this leader has heard from."""
        size = pages.size_of(request.page_size, DEFAULT_LIMITS)
        position = pages.position_of(request, request.page_token)
        if isinstance(size, Refused):
            return size
        if isinstance(position, Refused):
            return position
        after, most = position.decode(errors="replace"), size

        def listing(view: Reader) -> Steps[worker_service_pb2.ListWorkersResponse]:
            scope = Scope.of(view, caller.namespace)
            return self._workers.listing(scope, request, after, most)

        reply = await self.read(listing)
        self._check_leadership()  # another leader has other workers
        reply.leader_id = self._log.status().leader_id or ""
        return Replied(reply=reply)

    def sample(self) -> None:
        """Survey a few more queues or workers while this node leads; hooks receive the result."""
        if self.serving():
            self._sampler.step()

    async def verify_state(
        self, request: cluster_service_pb2.VerifyStateRequest
    ) -> Replied | Refused:
        """Report the progress of the state comparison; begin a pass if the request asks for one."""
        await self._log.confirm()
        self._check_leadership()
        return self._cluster_tasks.verify(request)

    # ---------------------------------------------------------------- leadership

    def stop(self) -> None:
        """End the leadership, if there is one, and begin no other; callers get NotLeaderError."""
        self._stopped = True
        self._end_leadership(None)
        self._hashing.shutdown(wait=False)
        while self._events:
            self._tell_events()

    def _decidable(self) -> None:
        status = self._log.status()
        if (
            self._leadership is None
            and not self._stopped
            and status.role is Role.LEADER
            and self._log.decidable() is not None
        ):
            self._begin_leadership(status.term)
        self._committer.wake()

    def _role_changed(self, status: LogStatus) -> None:
        if status.role is not Role.LEADER or (
            self._leadership is not None and status.term != self._leadership
        ):
            self._end_leadership(status.leader_id)

    def _begin_leadership(self, term: int) -> None:
        self._leadership = term
        self._leases.clear()  # leases of an entry that was answered after the last leadership
        self._workers.clear()
        view = self._state.view()
        self._log_time.begin(queries.log_time(view), queries.stepped_ms(view))
        self._cluster_tasks.begin()
        self._housekeeping.begin()
        self._ticker.start(wake=self._committer.wake)
        self._taking_over = self._loop.create_task(self._take_over(), name="take-over")
        self._taking_over.add_done_callback(self._ended)
        self._hooks.begun()
        _logger.info("leadership begins", extra={"term": term})

    def _end_leadership(self, leader_id: str | None) -> None:
        if self._leadership is not None:
            _logger.info(
                "leadership ends", extra={"term": self._leadership, "leader_id": leader_id}
            )
            self._sampler.stop()
        self._leadership = None
        self._clock_watch.end()
        self._ticker.stop()
        self._housekeeping.end()
        self._cluster_tasks.end()
        if self._taking_over is not None:
            self._taking_over.cancel()
            self._taking_over = None
        self._leases.clear()
        self._committer.abandon(NotLeaderError(leader_id))
        self._claimants.wake_all()
        self._watchers.wake_all()

    async def _take_over(self) -> None:
        """Restart every running lease, and record the membership if the state holds none."""
        for namespace in self._namespaces.numbers:
            after: bytes | None = b""
            while after is not None:
                scope = Scope.of(self._state.view(), namespace)
                leases, after = queries.running_leases(scope, after, LEASES_SLICE)
                for lease in leases:
                    self._leases.grant(lease)
                await asyncio.sleep(0)
        while queries.membership(self._state.view()) is None:
            formed = self._formation()
            if formed is None:  # a member has not introduced itself yet
                await asyncio.sleep(FORMATION_S)
                continue
            operation = FormCluster(
                cluster_id=formed.cluster_id,
                members=formed.members,
                cluster_version=self._log.common_version() or CLUSTER_VERSION_FIRST,
                wall_ms=self._log_time.wall_ms(),
            )
            try:
                await self._committer.submit(operation)
            except (NotLeaderError, OutcomeUnknownError):
                return  # the next leader sees whether it is recorded
            except (NotAppliedError, OverloadedError) as error:
                _logger.warning("membership is not written yet", extra={"reason": str(error)})
                await asyncio.sleep(FORMATION_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """End the process on an error: without the task, the queue would stop unnoticed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal(error)

    async def _confirm(self) -> None:
        """Return once this node is known to have still led when this was called."""
        started_s = self._loop.time()
        await self._log.confirm()
        self._hooks.confirm(self._loop.time() - started_s)

    def _check_leadership(self) -> None:
        if not self._log.leads():
            raise NotLeaderError(self._log.status().leader_id)

    def _this_leadership(self) -> Callable[[], None]:
        """Return a check that raises NotLeaderError once the present leadership is over."""
        leadership = self._leadership

        def check() -> None:
            self._check_leadership()
            if self._leadership != leadership:
                raise NotLeaderError(self._log.status().leader_id)

        return check

    # ---------------------------------------------------------------- what decisions wake

    def _applied(self, wakeups: Wakeups) -> None:
        self._ticker.changed()
        for lease in wakeups.granted:
            self._leases.grant(lease)
        for token in wakeups.ended:
            self._leases.end(token)
            self._workers.ended(token)
        for ready in wakeups.ready:
            self._claimants.wake(ready)
        if wakeups.to_fill:
            self._cluster_tasks.to_fill()
        if wakeups.filled is not None:
            self._cluster_tasks.filled(wakeups.filled)
            if wakeups.filled.complete:
                self._claimants.wake_all()
        for finished in wakeups.finished:
            self._watchers.wake_all(finished)
        if wakeups.events:
            telling = bool(self._events)
            self._events.extend(wakeups.events)
            if not telling:
                self._tell_events()

    def _tell_events(self) -> None:
        """Report the events of tasks in order: some now, the others in later turns."""
        assert self._hooks.event is not None
        # A share of the queue, so that it does not grow if events come faster than they are
        # written.
        for _ in range(min(len(self._events), max(EVENTS, len(self._events) // 10))):
            self._hooks.event(self._events.popleft())
        if self._events:
            self._loop.call_soon(self._tell_events)

    def _may_find(self, operation: Claim) -> bool:
        """Whether to have a claim decided before it waits.

        Most claims of idle workers find nothing: to see that here costs a tenth of a decision.
        """
        if not self.serving():
            return True  # it fails
        scope = Scope.of(self._state.view(), operation.caller.namespace)
        return queries.may_hold_ready(scope, operation.request.queues)

    async def _claim_once(
        self, operation: Claim, received_s: float, give_up_s: float, claimant: Claimant
    ) -> Outcome | None:
        """Look for ready tasks once; return None if there are none."""
        # The grant comes after this, so the deadline that the worker computes is never later than
        # this leader's.
        waited_ms = int((self._loop.time() - received_s) * 1000)
        outcome = await self._look(operation, claimant.take_decided())
        looks = 1
        while isinstance(outcome, Unfinished):
            if looks >= LOOKS_MIN and self._loop.time() >= give_up_s:
                break
            outcome = await self._look(replace(operation, queues=outcome.queues))
            looks += 1
        if not isinstance(outcome, Replied):
            return outcome
        reply = outcome.reply
        assert isinstance(reply, worker_service_pb2.ClaimResponse)
        self._claimants.looked(claimant, [task.spec for task in reply.tasks])
        if not reply.tasks:
            return outcome if reply.lost_task_ids else None
        for task in reply.tasks:
            task.waited.FromMilliseconds(waited_ms)
        # A lease that has ended by now, as after a repeated call, has no holder any more.
        tokens = [
            token for task in reply.tasks if (token := FencingToken(task.token)) in self._leases
        ]
        self._workers.granted(operation.caller.namespace, operation.request.worker_id, tokens)
        return outcome

    async def _wait_for_tasks(self, claimant: Claimant, give_up_s: float) -> bool:
        """Wait until it may find tasks; return False if ``give_up_s`` passed first."""
        try:
            return await self._claimants.wait(claimant, give_up_s - self._loop.time())
        except asyncio.CancelledError:
            decided = claimant.take_decided()
            # Woken for its outcome and cut off in one turn of the loop: the committer releases what
            # it is granted, if that is not known yet.
            if decided is not None and not decided.cancel() and not decided.cancelled():
                self._give_back_unheard(claimant.operation, decided)
            raise

    async def _look(
        self, operation: Claim, asked: asyncio.Future[Outcome] | None = None
    ) -> Outcome:
        """Have a claim decided once, or await what is ``asked`` already.

        What it is granted is released if its caller is gone.
        """
        outcome: Outcome | None = None
        try:
            if asked is None:
                asked = self._committer.submit(operation)
            outcome = await asked
        finally:
            # Cancelled or failed: the next claim is woken for these tasks when this claim leaves.
            if outcome is None and asked is not None and asked.done() and not asked.cancelled():
                self._give_back_unheard(operation, asked)
        return outcome

    def _give_back_unheard(self, operation: Claim, asked: asyncio.Future[Outcome]) -> None:
        """Release tasks that were granted in the turn of the loop in which the call was cut off."""
        if asked.exception() is None:
            self._committer.give_back(operation, asked.result())

    async def _told(
        self, request: task_service_pb2.WaitTaskRequest, namespace: int
    ) -> Replied | Refused:
        """Return the answer to a WaitTask, shared by all equal ones of this turn of the loop.

        It is read after the turn, so it is as new as each caller was promised.
        """
        asked = namespace, request.task_id, request.omit_payload
        telling = self._tellings.get(asked)
        if telling is None:
            telling = self._tellings[asked] = self._loop.create_task(self._tell(request, namespace))
            self._loop.call_soon(self._tellings.pop, asked)
        return await asyncio.shield(telling)

    async def _tell(
        self, request: task_service_pb2.WaitTaskRequest, namespace: int
    ) -> Replied | Refused:
        return await self._reading.answer(
            lambda view: queries.wait_task(Scope.of(view, namespace), request), self._open_view
        )
