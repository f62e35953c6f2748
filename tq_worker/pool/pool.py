"""The handler processes: starts, fills, relieves and restarts them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tq.internal.v1.worker_child_pb2 import Handler, Loaded
from tq.v1.worker_service_pb2 import ClaimedTask
from tq_common.backoff import doubled_s
from tq_worker.api.errors import UsageError
from tq_worker.pool.process import AttemptEvents, End, HandlerProcess
from tq_worker.pool.shares import shares
from tq_worker.pool.slot import ProcessSlot
from tq_worker.telemetry.stats import Stats
from tq_worker.wire.lease import Lease

_logger = logging.getLogger(__name__)

RESTART_FIRST_S = 0.1
RESTART_MAX_S = 10.0
PATIENCE_S = 1.0
"""How long tasks may wait for a process, or behind a slow handler, before they are given back."""
LEAVE_S = 2.0
"""How long an idle process may take to exit."""


class Owner(AttemptEvents, Protocol):
    """The owner of the tasks that run in the pool, who receives its events."""

    def release(self, leases: Iterable[Lease], reason: str) -> None:
        """Tasks that were handed to no process must be given back."""

    def room_changed(self) -> None:
        """There may be room for more tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many processes there are, and how long they are kept."""

    modules: Sequence[str]
    concurrency: int
    processes: int = 1
    """The processes that share the slots of async handlers and threads."""
    process_slots: int = 1
    """The processes for handlers that have one to themselves; started only if there are any."""
    tasks_max: int | None = None
    """A process is replaced after this many tasks."""
    memory_bytes_max: int | None = None
    """A process is replaced once it uses more memory than this."""
    log_format: str = "text"


class Pool:
    """Spreads tasks over its processes and keeps the planned number of them alive."""

    def __init__(self, *, plan: Plan, owner: Owner, stats: Stats) -> None:
        self._plan = plan
        self._owner = owner
        self._stats = stats
        self._process_slots = [
            ProcessSlot(
                slots=plan.concurrency // plan.processes + (at < plan.concurrency % plan.processes),
                solo=False,
            )
            for at in range(plan.processes)
        ]
        self._loading: dict[HandlerProcess, asyncio.Future[Loaded]] = {}
        self._unplaced: list[tuple[Lease, ClaimedTask]] = []
        """Tasks that found no process, for example because one had just died."""
        self._gone = asyncio.Event()
        self._started = False
        self._closing = False
        self._draining = False
        self.handlers: Mapping[str, Handler] = {}
        """By type."""
        self.sources: Sequence[str] = ()
        """The handlers' source files, including those that failed to load."""

    async def start(self) -> None:
        """Start every process and load the handlers; raises UsageError if they cannot be loaded."""
        self._learn(await self._fill(self._process_slots))
        await self._fill(slot for slot in self._process_slots if slot.process is None)
        self._started = True

    async def reload(self) -> None:
        """Replace every process by one with the new code.

        Raises UsageError, and keeps the old processes, if the code cannot be loaded.
        """
        coming = []
        try:
            for slot in self._process_slots:
                if slot.coming is not None:  # of the old code
                    slot.leaving.add(slot.coming)
                    slot.coming.leave()
                slot.coming = self._spawn(slot)
                coming.append(self._expect(slot.coming))
            loaded = await asyncio.gather(*coming)
            self._check(loaded)
        except (UsageError, OSError) as error:
            for slot in self._process_slots:
                if slot.coming is not None:
                    slot.coming.kill("its handlers are not used")
            problems = error.problems if isinstance(error, UsageError) else [str(error)]
            raise UsageError(problems) from None
        for slot in self._process_slots:
            self._relieve(slot, "reload", successor=slot.coming)
            slot.coming = None
        self._learn(loaded[0])
        await self._fill(slot for slot in self._process_slots if slot.process is None)
        self._owner.room_changed()

    def processes(self) -> list[HandlerProcess]:
        """Return the processes that take tasks."""
        found = (slot.process for slot in self._process_slots)
        return [process for process in found if process is not None and process.ready]

    def everyone(self) -> list[HandlerProcess]:
        """Return all processes."""
        return [process for slot in self._process_slots for process in slot.everyone()]

    def children(self) -> set[int]:
        """The pids of all processes that this worker has started and waits for."""
        return {pid for process in self.everyone() for pid in process.children}

    def slots(self, *, solo: bool) -> int:
        """How many tasks can run at a time."""
        return sum(slot.slots for slot in self._process_slots if slot.solo is solo)

    def room(self, ahead: int = 0, *, solo: bool) -> int:
        """How many tasks can be taken, including ``ahead`` that wait for a slot."""
        rooms = self._rooms(self._places(solo=solo), ahead)
        waiting = sum(self._is_solo(claimed) is solo for _, claimed in self._unplaced)
        return max(0, sum(rooms) - waiting)

    def hand_in(self, tasks: Sequence[tuple[Lease, ClaimedTask]], ahead: int) -> None:
        """Hand tasks in; those that find no process wait `PATIENCE_S` for one that restarts."""
        late: list[tuple[Lease, ClaimedTask]] = []
        for solo in (False, True):
            of_kind = [each for each in tasks if self._is_solo(each[1]) is solo]
            if of_kind:
                late += self._spread(of_kind, ahead, solo=solo)
        if late:
            self._unplaced += late
            asyncio.get_running_loop().call_later(PATIENCE_S, self._return, late)

    def give_back(self) -> None:
        """Give back the tasks that have not started; the worker drains."""
        self._draining = True
        self._return(list(self._unplaced))
        for process in self.everyone():
            process.give_back()

    def give_back_stuck(self, now_s: float) -> bool:
        """Give back the tasks that wait behind slow handlers.

        Returns False if there are none.
        """
        stuck = [
            process
            for process in self.everyone()
            if process.stuck_since_s(now_s) <= now_s - PATIENCE_S
        ]
        for process in stuck:
            process.give_back()
        return bool(stuck)

    def relieve_large(self) -> None:
        """Replace the processes that use more memory than the plan allows."""
        most_bytes = self._plan.memory_bytes_max
        if most_bytes is None or self._closing:
            return
        for slot in self._process_slots:
            process = slot.process
            if process is not None and process.ready and process.memory_bytes() > most_bytes:
                process.give_back()
                successor, slot.coming = slot.coming, None
                self._relieve(slot, "memory", successor)

    async def close(self) -> None:
        """End every process; kills those that do not exit within `LEAVE_S`."""
        self._closing = True
        for slot in self._process_slots:
            if slot.restart is not None:
                slot.restart.cancel()
        for process in self.everyone():
            process.leave() if process.ready else process.kill("the worker shuts down")
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._all_gone()
        except TimeoutError:
            for process in self.everyone():
                process.kill("the worker shuts down")
            await self._all_gone()

    async def _all_gone(self) -> None:
        while self.everyone():
            self._gone.clear()
            await self._gone.wait()

    # ---------------------------------------------------------------- events of processes

    def loaded(self, process: HandlerProcess, loaded: Loaded) -> None:
        """Its handlers were imported, or could not be."""
        waiting = self._loading.pop(process, None)
        if waiting is not None:
            # If the first start fails, the worker ends: do not restart.
            self._closing |= bool(loaded.problems) and not self._started
            if not waiting.done():
                waiting.set_result(loaded)
        elif loaded.problems:
            _logger.error("handlers cannot be loaded", extra={"problems": list(loaded.problems)})
        else:
            tasks, self._unplaced = self._unplaced, []
            self.hand_in(tasks, 0)
            self._owner.room_changed()

    def started(self, leases: Iterable[Lease]) -> None:
        """Attempts with a timeout were begun."""
        self._owner.started(leases)

    def ended(self, process: HandlerProcess, ends: Sequence[End]) -> None:
        """Attempts came to an end."""
        process.slot.deaths = 0
        if process.slot.solo and any(end.lease.stop is not None for end in ends):
            self._clear_away(process)
        self._owner.ended(process, ends)
        if process.leaving:
            self._see_off(process)

    def _clear_away(self, process: HandlerProcess) -> None:
        """End the own process of a stopped handler, with all that it may have left running.

        This comes before its report: the next attempt may begin as soon as that arrives.
        """
        if self._draining:
            process.leave()
        elif process.slot.process is process and not self._closing:
            successor, process.slot.coming = process.slot.coming, None
            self._relieve(process.slot, "stopped", successor)
        process.end_group()

    def exited(self, process: HandlerProcess) -> None:
        """Pass on the tasks of an exited process, and start another in its slot."""
        slot = process.slot
        was_seated = slot.process is process
        asked = slot.coming is process or (process.leaving and not process.outstanding)
        if was_seated:
            slot.process = None
        elif slot.coming is process:
            slot.coming = None
        slot.leaving.discard(process)
        self._gone.set()
        if not asked and not self._closing:
            self._stats.deaths += 1
            _logger.warning(
                "handler process ended",
                extra={
                    "pid": process.pid,
                    "cause": process.how_it_ended(),
                    "tasks": len(process.outstanding),
                },
            )
        self._owner.exited(process)
        waiting = self._loading.pop(process, None)
        if waiting is not None and not waiting.done():
            modules = ",".join(self._plan.modules)
            problem = f"--handlers {modules}: while imported, {process.how_it_ended()}"
            waiting.set_result(Loaded(problems=[problem]))
        elif was_seated and not self._closing:
            self._restart_later(slot)

    # ---------------------------------------------------------------- processes and their slots

    async def _fill(self, process_slots: Iterable[ProcessSlot]) -> Loaded | None:
        """Start a process in each of these; raises UsageError if the handlers cannot be loaded."""
        coming = []
        for slot in process_slots:
            slot.process = self._spawn(slot)
            coming.append(self._expect(slot.process))
        loaded = await asyncio.gather(*coming)
        self._check(loaded)
        return loaded[0] if loaded else None

    def _expect(self, process: HandlerProcess) -> asyncio.Future[Loaded]:
        loading: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._loading[process] = loading
        return loading

    def _check(self, loaded: Sequence[Loaded]) -> None:
        problems = [problem for each in loaded for problem in each.problems]
        if problems:
            files = {file for each in loaded for file in each.sources}
            self.sources = sorted(files.union(self.sources))
            raise UsageError(list(dict.fromkeys(problems)))

    def _learn(self, loaded: Loaded | None) -> None:
        """Note the handlers; adds process slots if any handler has a process to itself."""
        assert loaded is not None, "there is a process at least"
        self.handlers = {each.type: each for each in loaded.handlers}
        self.sources = loaded.sources
        wanted = any(each.solo for each in loaded.handlers)
        if wanted and not any(slot.solo for slot in self._process_slots):
            self._process_slots += [
                ProcessSlot(slots=1, solo=True) for _ in range(self._plan.process_slots)
            ]

    def _wear(self, slot: ProcessSlot, process: HandlerProcess) -> None:
        """Start the next process while this one takes its last tasks, then let it take over."""
        left = None if self._plan.tasks_max is None else self._plan.tasks_max - process.handed_in
        if left is None or left > slot.slots:
            return
        if slot.coming is None:
            slot.coming = self._spawn_or_none(slot)
        if left <= 0:
            successor, slot.coming = slot.coming, None
            self._relieve(slot, "tasks", successor)

    def _relieve(
        self, slot: ProcessSlot, why: str, successor: HandlerProcess | None = None
    ) -> None:
        """Have a process finish its tasks and exit; another takes its slot at once."""
        process, slot.process = slot.process, successor
        if process is not None:
            self._stats.recycled[why] += 1
            _logger.info(
                "handler process is relieved",
                extra={"pid": process.pid, "why": why, "tasks": len(process.outstanding)},
            )
            slot.leaving.add(process)
            if why == "reload":
                process.give_back()
            process.leave()
            self._see_off(process)
        if slot.process is None:
            self._restart(slot)

    def _see_off(self, process: HandlerProcess) -> None:
        """Kill a process that has nothing to do and does not exit within `LEAVE_S`."""
        if not process.outstanding:
            loop = asyncio.get_running_loop()
            loop.call_later(LEAVE_S, process.kill, "it did not exit when it was told to")

    def _restart_later(self, slot: ProcessSlot) -> None:
        delay_s = restart_delay_s(slot.deaths)
        slot.deaths += 1
        loop = asyncio.get_running_loop()
        slot.restart = loop.call_later(delay_s, self._restart, slot)

    def _restart(self, slot: ProcessSlot) -> None:
        if slot.process is not None or self._closing or self._draining:
            return
        slot.process = self._spawn_or_none(slot)
        if slot.process is None:
            # No memory or file descriptors: others may free enough a moment later.
            self._restart_later(slot)

    def _spawn_or_none(self, slot: ProcessSlot) -> HandlerProcess | None:
        try:
            return self._spawn(slot)
        except OSError as error:
            _logger.error("handler process cannot be started", extra={"error": str(error)})  # noqa: TRY400 - the cause is in the text
            return None

    def _spawn(self, slot: ProcessSlot) -> HandlerProcess:
        process = HandlerProcess(
            slot=slot,
            modules=self._plan.modules,
            slots=slot.slots,
            log_format=self._plan.log_format,
            events=self,
        )
        _logger.info("handler process started", extra={"pid": process.pid, "slots": process.slots})
        return process

    # ---------------------------------------------------------------- tasks and their processes

    def _is_solo(self, claimed: ClaimedTask) -> bool:
        handler = self.handlers.get(claimed.spec.type)
        return handler is not None and handler.solo

    def _places(self, *, solo: bool) -> list[ProcessSlot]:
        return [slot for slot in self._process_slots if slot.solo is solo]

    def _rooms(self, process_slots: Sequence[ProcessSlot], ahead: int) -> list[int]:
        spread = -(-ahead // max(1, len(process_slots)))
        return [slot.room(spread, self._plan.tasks_max) for slot in process_slots]

    def _spread(
        self, tasks: Sequence[tuple[Lease, ClaimedTask]], ahead: int, *, solo: bool
    ) -> Sequence[tuple[Lease, ClaimedTask]]:
        """Hand in the tasks that find room; returns the rest."""
        process_slots = self._places(solo=solo)
        given = shares(len(tasks), self._rooms(process_slots, 0), self._rooms(process_slots, ahead))
        at = 0
        for slot, share in zip(process_slots, given, strict=True):
            if share:
                assert slot.process is not None, "it has room"
                slot.process.hand_in(tasks[at : at + share])
                at += share
                self._wear(slot, slot.process)
        return tasks[at:]

    def _return(self, tasks: Sequence[tuple[Lease, ClaimedTask]]) -> None:
        """Give back those of ``tasks`` that still wait for a process."""
        late = {lease.token for lease, _ in tasks}
        waiting = [lease for lease, _ in self._unplaced if lease.token in late]
        self._unplaced = [each for each in self._unplaced if each[0].token not in late]
        self._owner.release(waiting, "no handler process takes it now")


def restart_delay_s(deaths: int) -> float:
    """How long to wait before a restart, after so many deaths in a row."""
    return doubled_s(RESTART_FIRST_S, RESTART_MAX_S, deaths - 1) if deaths else 0.0
