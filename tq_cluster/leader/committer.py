"""Group commit: the operations that arrive while one entry is in flight are decided as the next.

One entry is in flight at a time, because a decision is sound only over a state that holds every
entry of the leader's own log (docs/architecture.md, "one in flight"). Batches grow by themselves:
what costs a round trip is shared by everybody who waited for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tq.internal.v1 import log_pb2
from tq_cluster.core.batch import Draw
from tq_cluster.core.decide import decide
from tq_cluster.core.operations import (
    Claim,
    Decision,
    ExpireLeases,
    Operation,
    Outcome,
    Report,
    Submit,
    Wakeups,
)
from tq_cluster.core.types import AppliedAt, FencingToken, TimestampMs
from tq_cluster.core.view import Workspace
from tq_cluster.errors import FatalError, NotLeaderError, OverloadedError
from tq_cluster.leader.giveback import release_of
from tq_cluster.leader.hooks import LeaderHooks
from tq_cluster.raft.door import Log, Role
from tq_cluster.raft.roster import marked

_logger = logging.getLogger(__name__)

ENTRY_FORMAT = 1
DECIDE_S = 0.010
"""How long one batch may hold the event loop while it is decided."""
ITEM_MIN_S = 5e-6
BATCH_ITEMS_MIN = 64
"""How much a batch may always hold, however slow the machine."""
BATCH_BYTES_MAX = 1 << 20
"""How much payload one batch gathers; a single larger operation goes alone."""
GATHER_S = 0.005
HASH_ROWS_MAX = 500
HASH_BYTES_MAX = 256 << 10
"""How much of the state one entry has every node hash: 2 ms of work, or less."""
WAITING_MAX = 20_000


class DraftWorkspace(Workspace, Protocol):
    """A workspace that can say what was written to it."""

    def tables(self) -> Sequence[log_pb2.TableChanges]:
        """The changes, in columns by table; empty when nothing was written."""


class Decisions(Protocol):
    """Where decisions are made: the applied state, with room for drafts."""

    def workspace(self) -> DraftWorkspace:
        """A draft over the applied state, void once another entry is applied."""


@dataclass(slots=True)
class _Waiting:
    operation: Operation
    outcome: asyncio.Future[Outcome]
    items: int
    payload_bytes: int


class Committer:
    """Takes operations while this node leads and answers each once its entry is applied here."""

    def __init__(
        self,
        *,
        log: Log,
        state: Decisions,
        now_ms: Callable[[], TimestampMs],
        draw: Draw,
        housekeeping: Callable[[], Iterable[Operation]],
        applied: Callable[[Wakeups], None],
        hooks: LeaderHooks,
        fatal: Callable[[BaseException], None],
    ) -> None:
        """Wire the parts together.

        ``housekeeping`` is asked for the leader's own operations as each batch is put together, and
        ``applied`` told what every applied decision woke, before its callers are answered.
        ``fatal`` ends the process: it is told where the state itself turns out to be damaged.
        """
        self._log = log
        self._state = state
        self._now_ms = now_ms
        self._draw = draw
        self._housekeeping = housekeeping
        self._applied = applied
        self._hooks = hooks
        self._fatal = fatal
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._in_flight: asyncio.Future[None] | None = None
        self._renewing = False
        """Claims that were replayed wait to be told; nothing may end their leases meanwhile."""
        self._ending: frozenset[FencingToken] = frozenset()
        self._scheduled: asyncio.Handle | None = None
        self._last_batch = 1
        self._singly = 0
        self._item_s = 50e-6

    def submit(self, operation: Operation) -> asyncio.Future[Outcome]:
        """Have ``operation`` decided; the future is answered once the outcome may be told.

        Fails with NotLeaderError or NotAppliedError (changed nothing), OutcomeUnknownError (may
        have), or whatever deciding it raised. Cancelled before it is decided, it is dropped;
        cancelled after, the tasks that a claim was granted are given back.
        """
        status = self._log.status()
        if status.role is not Role.LEADER:
            raise NotLeaderError(status.leader_id)
        if len(self._waiting) >= WAITING_MAX:
            raise OverloadedError(f"{WAITING_MAX} operations wait already")
        waiting = self._wait_for(operation)
        self._waiting.append(waiting)
        self._arrange()
        return waiting.outcome

    def give_back(self, claim: Claim, outcome: Outcome) -> None:
        """Release what a claim was granted whose caller had gone before it could be told."""
        release = release_of(claim, outcome)
        if release is None or self._log.status().role is not Role.LEADER:
            return
        waiting = self._wait_for(release)
        waiting.outcome.add_done_callback(_noted)
        # Before a repetition of the claim that may wait already: decided earlier, that would be
        # told that it holds what is then taken from it.
        self._waiting.appendleft(waiting)
        self._arrange()

    def ending(self, tokens: Iterable[FencingToken]) -> asyncio.Future[None] | None:
        """The entry in flight, if it ends one of these leases: what a heartbeat has to wait for."""
        if self._in_flight is not None and not self._ending.isdisjoint(tokens):
            return self._in_flight
        return None

    def wake(self) -> None:
        """Look again: the log came free, or housekeeping is due."""
        if self._scheduled is None and not self._busy:
            self._scheduled = self._loop.call_soon(self._decide)

    def abandon(self, error: Exception) -> None:
        """Answer everything that was not yet proposed with ``error``: this reign is over."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._singly = 0
        self._last_batch = 1
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            _fail(each.outcome, error)

    @property
    def _busy(self) -> bool:
        """Whether nothing can be decided until what was decided last has been answered."""
        return self._in_flight is not None or self._renewing

    def _wait_for(self, operation: Operation) -> _Waiting:
        return _Waiting(operation, self._loop.create_future(), *_weigh(operation))

    def _arrange(self) -> None:
        """Decide at once for a lone caller; under load wait for about as many as last time."""
        if self._busy:
            return
        full = len(self._waiting) >= self._last_batch
        if self._scheduled is None:
            if full:
                self._scheduled = self._loop.call_soon(self._decide)
            else:
                self._scheduled = self._loop.call_later(GATHER_S, self._decide)
        elif full and isinstance(self._scheduled, asyncio.TimerHandle):
            self._scheduled.cancel()
            self._scheduled = self._loop.call_soon(self._decide)

    def _decide(self) -> None:
        self._scheduled = None
        if self._busy:
            return
        base = self._log.decidable()
        if base is None:
            return  # on_decidable wakes us
        batch = self._take_batch()
        if not batch:
            return
        started = self._loop.time()
        now_ms = self._now_ms()
        try:
            workspace = self._state.workspace()
            decision = decide(
                [each.operation for each in batch],
                now_ms,
                workspace,
                self._draw,
                tell_events=self._hooks.event is not None,
            )
            tables = workspace.tables()
        except FatalError as error:
            # No operation's fault: as long as this node leads, nothing can be had from what is
            # damaged here and whole on the others.
            for each in batch:
                _fail(each.outcome, error)
            self._fatal(error)
            return
        except Exception as error:  # noqa: BLE001 - a fault of ours must not cost the batch
            self._isolate(batch, error)
            return
        self._hooks.decide(spent := self._loop.time() - started)
        items = sum(each.items for each in batch)
        # A pause of the whole process says nothing of what an item costs.
        cost_s = min(max(spent / items, ITEM_MIN_S), 4 * self._item_s)
        self._item_s += 0.1 * (cost_s - self._item_s)
        self._last_batch = len(batch)
        if tables:
            self._propose(batch, decision, tables, base, now_ms)
        else:
            self._answer_after_confirm(batch, decision)
        if self._waiting:
            self._arrange()

    def _take_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        items = payload_bytes = 0
        items_max = max(BATCH_ITEMS_MIN, int(DECIDE_S / self._item_s))
        claims: set[str] = set()
        if not self._singly:
            for operation in self._housekeeping():
                batch.append(self._wait_for(operation))
                items += batch[-1].items
        while self._waiting:
            each = self._waiting[0]
            if each.outcome.done():  # its caller has given up
                self._waiting.popleft()
                continue
            if isinstance(each.operation, Claim) and (named := each.operation.request.request_id):
                if named in claims:
                    # A claim and its repetition: what the first is granted may have to be given
                    # back before the second is told that it holds it.
                    break
                claims.add(named)
            items += each.items
            payload_bytes += each.payload_bytes
            if batch and (items > items_max or payload_bytes > BATCH_BYTES_MAX):
                break
            batch.append(self._waiting.popleft())
            if self._singly:
                self._singly -= 1
                break
        return batch

    def _isolate(self, batch: list[_Waiting], error: Exception) -> None:
        """Find the operation that cannot be decided, so that it fails alone.

        Otherwise its client's retries would fail leader after leader.
        """
        if len(batch) == 1:
            _logger.critical("operation cannot be decided", exc_info=error)
            _fail(batch[0].outcome, error)
        else:
            # Not the expiries: a lease may be renewed before their turn comes, and the ticker finds
            # those that were not.
            again = [each for each in batch if not isinstance(each.operation, ExpireLeases)]
            self._waiting.extendleft(reversed(again))
            self._singly = len(again)
        if self._waiting:
            self.wake()

    def _propose(
        self,
        batch: list[_Waiting],
        decision: Decision,
        tables: Sequence[log_pb2.TableChanges],
        base: AppliedAt,
        now_ms: TimestampMs,
    ) -> None:
        hash_range = None
        if decision.hash_range is not None:
            hash_range = log_pb2.HashRange(
                table=decision.hash_range.table,
                from_key=decision.hash_range.from_key,
                rows_max=HASH_ROWS_MAX,
                bytes_max=HASH_BYTES_MAX,
            )
        entry = log_pb2.Entry(
            format=ENTRY_FORMAT,
            decided_term=base.term,
            base_index=base.index,
            now_ms=now_ms,
            tables=tables,
            hash_range=hash_range,
        )
        try:
            encoded = entry.SerializeToString()
            if decision.members is not None:
                encoded = marked(encoded, decision.members)
            flight = self._log.propose(encoded, base)
        except NotLeaderError as error:
            for each in batch:
                _fail(each.outcome, error)
            return
        self._in_flight = flight
        self._ending = frozenset(decision.wakeups.ended)
        proposed = self._loop.time()

        def landed(flight: asyncio.Future[None]) -> None:
            self._in_flight = None
            self._ending = frozenset()
            error = flight.exception()
            if error is not None:
                for each in batch:
                    _fail(each.outcome, error)
            else:
                self._hooks.commit(self._loop.time() - proposed)
                self._applied(decision.wakeups)
                self._answer(batch, decision)
                self._count(decision)
            if self._waiting:
                self._arrange()

        flight.add_done_callback(landed)

    def _count(self, decision: Decision) -> None:
        try:
            self._hooks.counted(decision.wakeups.tallies)
        except FatalError as error:  # it looks names up in the state, and may find damage
            self._fatal(error)

    def _answer_after_confirm(self, batch: list[_Waiting], decision: Decision) -> None:
        """Tell what no entry carries only once this node is known to have led when it was found.

        A replayed claim renews its leases: no entry that ends one may come between, or its caller
        would believe in a lease that another already holds.
        """
        renews = bool(decision.wakeups.granted)
        asked = self._loop.time()

        def confirmed(round_: asyncio.Future[AppliedAt]) -> None:
            error = round_.exception()
            if renews:
                self._renewing = False
            if error is None:
                self._hooks.confirm(self._loop.time() - asked)
                if renews:
                    self._applied(decision.wakeups)
                self._answer(batch, decision)
            else:
                for each in batch:
                    _fail(each.outcome, error)
            if renews and self._waiting:
                self._arrange()

        try:
            self._log.confirm().add_done_callback(confirmed)
        except NotLeaderError as error:
            for each in batch:
                _fail(each.outcome, error)
        else:
            self._renewing = renews

    def _answer(self, batch: list[_Waiting], decision: Decision) -> None:
        for each, outcome in zip(batch, decision.outcomes, strict=True):
            if not each.outcome.done():
                each.outcome.set_result(outcome)
            elif isinstance(each.operation, Claim):
                self.give_back(each.operation, outcome)


def _weigh(operation: Operation) -> tuple[int, int]:
    """How many items an operation holds and how many bytes of payload it brings."""
    if isinstance(operation, Submit):
        tasks = operation.request.tasks
        return 1 + len(tasks), operation.request.ByteSize()
    if isinstance(operation, Claim):
        return 1 + operation.request.max_tasks, 0
    if isinstance(operation, Report):
        return 1 + len(operation.request.reports), operation.request.ByteSize()
    return 1, 0


def _noted(outcome: asyncio.Future[Outcome]) -> None:
    # Nobody waits for it: where it fails, the lease runs out instead.
    outcome.exception()


def _fail(outcome: asyncio.Future[Outcome], error: BaseException) -> None:
    if not outcome.done():
        outcome.set_exception(error)
        outcome.exception()  # housekeeping has nobody who would look at it
