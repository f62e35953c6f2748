"""Group commit: the operations that arrive while one entry is in flight are decided as the next.

One entry is in flight at a time, because a decision is sound only over a state that holds every
entry of the leader's own log (docs/architecture.md, "one in flight"). Batches grow by themselves:
all callers that waited for a round trip share its cost.

A batch may be decided over several turns of the event loop, so that other work does not wait long.
Meanwhile nothing else is decided or proposed, so nothing is applied, and the state below the
decision does not change. If the log moves nevertheless, as it does under another leader, the
partial decision is discarded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from tq.internal.v1 import log_pb2
from tq_cluster.core.decide import deciding
from tq_cluster.core.kernel.batch import Draw
from tq_cluster.core.kernel.budget import ENTRY_BUDGET
from tq_cluster.core.model.operations import (
    Claim,
    Decision,
    ExpireLeases,
    Operation,
    Outcome,
    Ready,
    Wakeups,
)
from tq_cluster.core.model.types import AppliedAt, FencingToken, TimestampMs
from tq_cluster.core.rows.view import Workspace
from tq_cluster.errors import FatalError, NotLeaderError, OverloadedError
from tq_cluster.leader.claimants import Claimant
from tq_cluster.leader.hooks import LeaderHooks
from tq_cluster.leader.line import BATCH_ITEMS_MAX, Line, Waiting, name_of, named, weigh
from tq_cluster.leader.outcomes import fail, goes_on_waiting, grants, may_end, noted, tell
from tq_cluster.leader.release_undelivered import release_of
from tq_cluster.leader.turns import in_turns
from tq_cluster.raft.log_api import Log
from tq_cluster.raft.membership import marked
from tq_cluster.slices import Slice, Slices, slices

_logger = logging.getLogger(__name__)

ENTRY_FORMAT = 1
SLICE_S = 0.005
"""How long a batch is decided before the event loop turns."""
GATHER_S = 0.005
HASH_ROWS_MAX = 500
HASH_BYTES_MAX = 256 << 10
"""How much of the state one entry makes every node hash: 2 ms of work, or less."""
OWN_ITEMS_MIN = 200
"""How many items of the leader's own work a batch holds beyond as many as its callers bring."""
ANSWERS = 64
"""How many callers are answered in one turn of the loop: their replies take a few milliseconds."""
WAITING_MAX = 20_000


class OwnWork(Protocol):
    """The leader's own operations."""

    def operations(
        self, items_max: int, waiting: Collection[type[Operation]]
    ) -> Iterable[Operation]:
        """Yield what is due, up to about ``items_max`` tasks; ``waiting`` types are queued."""

    def alone(self, operation: Operation) -> bool:
        """Whether an operation must not share a batch."""

    def decided(self, operation: Operation, outcome: Outcome) -> bool:
        """Handle an operation that is decided and applied; return whether more is due at once."""

    def failed(self, operation: Operation, error: Exception, *, alone: bool) -> None:
        """Handle a batch that cannot be decided; ``alone``: it held only this operation."""


class DraftWorkspace(Workspace, Protocol):
    """A workspace that can list its changes."""

    def filling(self, entry: log_pb2.Entry) -> Generator[None]:
        """Add the changes to an entry, in columns by table, a few rows at a time."""


class Decisions(Protocol):
    """Where decisions are made: the applied state, with room for drafts."""

    def workspace(self) -> DraftWorkspace:
        """Return a draft over the applied state, void once another entry is applied."""


@dataclass(slots=True)
class _Drafted:
    """The result of deciding a batch."""

    decision: Decision
    entry: bytes
    """Empty if nothing changes."""


@dataclass(slots=True)
class _Drafting:
    """A batch that is being decided."""

    batch: list[Waiting]
    base: AppliedAt
    steps: Generator[None, None, _Drafted]
    done: asyncio.Future[None]
    """Resolved when the batch is decided, or given up."""
    spent_s: float = 0.0
    ending: frozenset[FencingToken] = frozenset()
    """The leases that the batch may end. Collected when the event loop turns for the first time."""
    resumed: Slice | None = None


class Committer:
    """Takes operations while this node leads and answers each once its entry is applied here."""

    def __init__(
        self,
        *,
        log: Log,
        state: Decisions,
        now_ms: Callable[[], TimestampMs],
        stepped_ms: Callable[[], int],
        draw: Draw,
        housekeeping: OwnWork,
        claims_for: Callable[[Sequence[Ready]], Sequence[Claimant]],
        applied: Callable[[Wakeups], None],
        hooks: LeaderHooks,
        fatal: Callable[[BaseException], None],
    ) -> None:
        """Wire the parts together.

        While a batch is put together, ``housekeeping`` provides the leader's own operations, one
        after the other while there is room. ``claims_for`` returns claims that wait for what a
        batch has made ready: they join it. ``applied`` receives what every applied decision wakes,
        before its callers are answered. ``fatal`` ends the process; it is called if the state
        itself is damaged.
        """
        self._log = log
        self._state = state
        self._now_ms = now_ms
        self._stepped_ms = stepped_ms
        self._draw = draw
        self._housekeeping = housekeeping
        self._claims_for = claims_for
        self._applied = applied
        self._hooks = hooks
        self._fatal = fatal
        self._loop = asyncio.get_running_loop()
        self._slices = slices()
        self._waiting = Line()
        self._drafting: _Drafting | None = None
        self._in_flight: asyncio.Future[None] | None = None
        self._renewing = False
        """Replayed claims wait to be answered; nothing may end their leases meanwhile."""
        self._ending: frozenset[FencingToken] = frozenset()
        self._scheduled: asyncio.Handle | None = None
        self._last_batch = 1
        self._singly = 0
        self._own_more = False
        """The leader's own work has more to do at once."""
        self._expiries_put_off = False
        """Expiries were put off: the next ones are decided before everything else."""
        self._lone_before = False
        """The last batch was one own operation, alone: now it is the callers' turn."""

    def submit(self, operation: Operation) -> asyncio.Future[Outcome]:
        """Have ``operation`` decided; the future resolves once the outcome may be returned.

        A claim that waits is given an empty outcome before that is confirmed.

        The future fails with NotLeaderError or NotAppliedError (nothing changed),
        OutcomeUnknownError (something may have changed), or the error that deciding raised. An
        operation that is cancelled before it is decided is dropped; if it is cancelled after, the
        tasks granted to a claim are released.
        """
        if not self._log.leads():
            raise NotLeaderError(self._log.status().leader_id)
        if len(self._waiting) >= WAITING_MAX:
            raise OverloadedError(f"{WAITING_MAX} operations wait already")
        waiting = self._wait_for(operation)
        self._waiting.add(waiting)
        self._arrange()
        return waiting.outcome

    def give_back(self, claim: Claim, outcome: Outcome) -> None:
        """Release the tasks granted to a claim whose caller had gone before the answer."""
        release = release_of(claim, outcome)
        if release is None or not self._log.leads():
            return
        waiting = self._wait_for(release)
        waiting.outcome.add_done_callback(noted)
        # Before a repetition of the claim that may wait already: decided first, the repetition
        # would be granted the tasks that are then released.
        waiting.first = waiting.gives_back = True
        self._waiting.put_back([waiting])
        self._arrange()

    def ending(self, tokens: Iterable[FencingToken]) -> asyncio.Future[None] | None:
        """Return the end of a batch that may end one of these leases: a heartbeat waits for it.

        The batch may be decided by then and in flight: ask again.
        """
        if self._in_flight is not None and not self._ending.isdisjoint(tokens):
            return self._in_flight
        drafting = self._drafting
        if drafting is not None and not drafting.ending.isdisjoint(tokens):
            return drafting.done
        return None

    def wake(self) -> None:
        """Schedule a decision: the log came free, or housekeeping is due."""
        if self._scheduled is None and not self._busy:
            self._scheduled = self._loop.call_soon(self._decide)

    def abandon(self, error: Exception) -> None:
        """Fail everything that was not yet proposed with ``error``: this leadership is over."""
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._singly = 0
        self._own_more = False
        self._expiries_put_off = False
        self._last_batch = 1
        waiting = [*self._give_up_draft(), *self._waiting]
        self._waiting.clear()
        in_turns(waiting, lambda each: fail(each.outcome, error))

    @property
    def _busy(self) -> bool:
        """Whether the last decision is still unanswered, so that nothing can be decided."""
        return self._drafting is not None or self._in_flight is not None or self._renewing

    def _wait_for(self, operation: Operation, *, own: bool = False) -> Waiting:
        return Waiting(operation, self._loop.create_future(), *weigh(operation), own=own)

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
        # What is decided alone is looked at for faults: no claim may join it.
        meets = not self._singly
        batch = self._take_batch()
        if not batch:
            return
        meets &= not self._lone_before
        steps = self._draft(batch, base, self._now_ms(), meets=meets)
        self._drafting = _Drafting(batch, base, steps, self._loop.create_future())
        self._go_on()

    def _go_on(self) -> None:
        """Decide for a while; then continue in another turn of the loop, or propose the entry."""
        drafting = self._drafting
        assert drafting is not None
        drafting.resumed = None
        if self._log.decidable() != drafting.base:
            # The draft is void: the log has moved, or is about to. None of the batch was proposed,
            # so all of it may be decided again; if another node leads now, the log reports it soon.
            self._wait_again(each for each in self._give_up_draft() if not each.own)
            return
        started_s = self._loop.time()
        try:
            while True:
                next(drafting.steps)
                if self._loop.time() >= started_s + SLICE_S:
                    break
        except StopIteration as end:
            drafted: _Drafted = end.value
        except FatalError as error:
            # No operation's fault: while this node leads, nothing can be decided over a state that
            # is damaged here and intact on the others.
            for each in self._give_up_draft():
                fail(each.outcome, error)
            self._fatal(error)
            return
        except Exception as error:  # noqa: BLE001 - a fault of ours must not cost the batch
            self._isolate(self._give_up_draft(), error)
            return
        else:
            if not drafting.spent_s:
                drafting.ending = may_end(drafting.batch)
            drafting.spent_s += self._count_slice(started_s)
            drafting.resumed = _go_on_later(self._slices, self._go_on)
            return
        self._hooks.decide(drafting.spent_s + self._count_slice(started_s))
        batch = self._give_up_draft()
        decision = drafted.decision
        if decision.put_off:
            batch = self._put_off(batch, decision.put_off)
        # The leader's own operations do not count as callers to wait for, nor claims that were met.
        self._last_batch = sum(not (each.own or each.met) for each in batch)
        if drafted.entry:
            self._propose(batch, drafted, drafting.base)
        else:
            self._answer_after_confirm(batch, decision)
        if self._waiting:
            self._arrange()

    def _count_slice(self, started_s: float) -> float:
        """Return how long a slice has taken. A batch's first slice does not wait for its turn."""
        took_s = self._loop.time() - started_s
        self._slices.took(took_s)
        return took_s

    def _draft(
        self, batch: list[Waiting], base: AppliedAt, now_ms: TimestampMs, *, meets: bool
    ) -> Generator[None, None, _Drafted]:
        """Decide a batch and make its entry, in steps."""
        workspace = self._state.workspace()
        decision = yield from deciding(
            [each.operation for each in batch],
            now_ms,
            workspace,
            self._draw,
            stepped_ms=self._stepped_ms(),
            tell_events=self._hooks.event is not None,
            budget=ENTRY_BUDGET,
            first=sum(each.first for each in batch),
            meet=partial(self._join, batch) if meets else _no_claims,
        )
        entry = log_pb2.Entry()
        yield from workspace.filling(entry)
        if not entry.tables:
            return _Drafted(decision, b"")
        entry.format = ENTRY_FORMAT
        entry.decided_term = base.term
        entry.base_index = base.index
        entry.now_ms = now_ms
        if decision.hash_range is not None:
            entry.hash_range.table = decision.hash_range.table
            entry.hash_range.from_key = decision.hash_range.from_key
            entry.hash_range.rows_max = HASH_ROWS_MAX
            entry.hash_range.bytes_max = HASH_BYTES_MAX
        encoded = entry.SerializeToString()
        if decision.members is not None:
            encoded = marked(encoded, decision.members)
        yield
        return _Drafted(decision, encoded)

    def _join(self, batch: list[Waiting], ready: Sequence[Ready]) -> list[Claim]:
        """Let claims that wait for what became ready join the batch that is being decided."""
        joining: list[Claim] = []
        names: set[tuple[int, str]] | None = None
        for claimant in self._claims_for(ready):
            waiting = self._wait_for(claimant.operation)
            waiting.met = True
            claimant.await_outcome(waiting.outcome)
            if names is None:
                names = named(batch)
            name = name_of(claimant.operation)
            if name in names:
                # A repetition of a claim must not be decided with it: see `Line.take`.
                self._waiting.add(waiting)
                continue
            if name is not None:
                names.add(name)
            batch.append(waiting)
            joining.append(claimant.operation)
        return joining

    def _give_up_draft(self) -> list[Waiting]:
        """Stop deciding the batch; return its operations."""
        drafting, self._drafting = self._drafting, None
        if drafting is None:
            return []
        if drafting.resumed is not None:
            drafting.resumed.cancel()
        drafting.steps.close()
        drafting.done.set_result(None)
        return drafting.batch

    def _put_off(self, batch: list[Waiting], places: Sequence[int]) -> list[Waiting]:
        """Queue what was not reached for the next batch, first; return the others."""
        put_off = [batch[place] for place in places]
        for each in put_off:
            each.first = True
            self._expiries_put_off |= isinstance(each.operation, ExpireLeases)
        self._wait_again(put_off)
        reached = set(range(len(batch))).difference(places)
        return [batch[place] for place in sorted(reached)]

    def _wait_again(self, batch: Iterable[Waiting]) -> None:
        # Not the expiries: a lease may be renewed before their turn comes, and the ticker finds the
        # others again.
        again = [each for each in batch if not isinstance(each.operation, ExpireLeases)]
        self._waiting.put_back(again)

    def _take_batch(self) -> list[Waiting]:
        """Take what one entry may hold: put-off operations, the leader's own, then waiting ones."""
        if self._singly:
            self._singly -= 1
            return self._waiting.take_next()
        batch: list[Waiting] = []
        self._waiting.take_first(batch)
        lone = self._take_own(batch)
        if lone is not None:
            self._waiting.put_back(each for each in batch if each.first)
            return [lone]
        self._waiting.take(batch)
        return batch

    def _take_own(self, batch: list[Waiting]) -> Waiting | None:
        """Add the leader's own due operations; return instead one that must be alone."""
        lone_before, self._lone_before = self._lone_before, False
        if lone_before and self._waiting:
            return None
        put_off = [*(each for each in batch if each.own), *self._waiting.own()]
        room = self._own_items_max() - sum(each.items for each in put_off)
        if room <= 0:
            return None
        waiting = {type(each.operation) for each in put_off}
        for operation in self._housekeeping.operations(room, waiting):
            each = self._wait_for(operation, own=True)
            if self._housekeeping.alone(operation):
                self._lone_before = True
                return each
            if self._expiries_put_off and isinstance(operation, ExpireLeases):
                self._expiries_put_off = False
                each.first = True
                batch.insert(0, each)
            else:
                batch.append(each)
            room -= each.items
            if room <= 0:
                break
        return None

    def _own_items_max(self) -> int:
        """Return how many items of own work a batch takes: OWN_ITEMS_MIN more than callers bring.

        At most half of a batch.
        """
        items = OWN_ITEMS_MIN
        for each in self._waiting:
            items += each.items
            if items >= BATCH_ITEMS_MAX // 2:
                return BATCH_ITEMS_MAX // 2
        return items

    def _isolate(self, batch: list[Waiting], error: Exception) -> None:
        """Decide the operations of a failed batch one by one, so that the faulty one fails alone.

        Otherwise its client's retries would fail leader after leader.
        """
        callers = [each for each in batch if not each.own]
        for each in batch:
            if each.own:  # what is due is found again
                self._housekeeping.failed(each.operation, error, alone=len(batch) == 1)
                fail(each.outcome, error)
        if len(batch) == len(callers) == 1:
            _log_undecidable(callers[0].operation, error)
            fail(callers[0].outcome, error)
        else:
            self._wait_again(callers)
            self._singly = len(callers)
        if self._waiting:
            self.wake()

    def _propose(self, batch: list[Waiting], drafted: _Drafted, base: AppliedAt) -> None:
        decision = drafted.decision
        try:
            flight = self._log.propose(drafted.entry, base)
        except NotLeaderError as error:
            for each in batch:
                fail(each.outcome, error)
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
                    fail(each.outcome, error)
            else:
                self._hooks.commit(self._loop.time() - proposed)
                self._applied(decision.wakeups)
                self._answer(batch, decision)
                self._count(decision)
            more, self._own_more = self._own_more, False
            if self._waiting or more:
                self._arrange()

        flight.add_done_callback(landed)

    def _count(self, decision: Decision) -> None:
        try:
            self._hooks.counted(decision.wakeups.tallies)
        except FatalError as error:  # it looks up names in the state, and may find damage
            self._fatal(error)

    def _answer_after_confirm(self, batch: list[Waiting], decision: Decision) -> None:
        """Answer results without an entry, once this node is confirmed to have led when it decided.

        If all are claims that found nothing and wait on, there is nothing to confirm yet.

        A replayed claim renews its leases. No entry that ends one may come between, or its caller
        would count on a lease that another worker already holds.
        """
        renews = bool(decision.wakeups.granted)
        asked = self._loop.time()

        if all(map(goes_on_waiting, batch, decision.outcomes)):
            self._answer(batch, decision)
            return

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
                    fail(each.outcome, error)
            if renews and self._waiting:
                self._arrange()

        try:
            self._log.confirm().add_done_callback(confirmed)
        except NotLeaderError as error:
            for each in batch:
                fail(each.outcome, error)
        else:
            self._renewing = renews

    def _answer(self, batch: list[Waiting], decision: Decision) -> None:
        """Answer the callers: those that are granted leases at once, the others in turns."""
        later: list[tuple[asyncio.Future[Outcome], Outcome]] = []
        for each, outcome in zip(batch, decision.outcomes, strict=True):
            if each.own:
                self._own_more |= self._housekeeping.decided(each.operation, outcome)
            elif not grants(outcome):
                later.append((each.outcome, outcome))
            elif not each.outcome.done():
                each.outcome.set_result(outcome)
            elif isinstance(each.operation, Claim):
                self.give_back(each.operation, outcome)
        in_turns(later, tell, ANSWERS)


def _go_on_later(slices_: Slices, go_on: Callable[[], None]) -> Slice:
    """Call ``go_on`` once its turn comes. Simulations let time pass here."""
    return slices_.later(go_on, urgent=True)


def _no_claims(_ready: Sequence[Ready]) -> Sequence[Claim]:
    return ()


def _log_undecidable(operation: Operation, error: Exception) -> None:
    extra = {"operation": type(operation).__name__}
    _logger.critical("operation cannot be decided", exc_info=error, extra=extra)
