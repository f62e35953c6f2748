"""The handler processes: started, filled, restarted when they die."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from tq.internal.v1.worker_child_pb2 import Loaded
from tq.v1.worker_service_pb2 import ClaimedTask, TaskReport
from tq_worker.errors import UsageError
from tq_worker.leases import Lease
from tq_worker.process import HandlerProcess
from tq_worker.shares import shares

_logger = logging.getLogger(__name__)

RESTART_FIRST_S = 0.1
RESTART_MAX_S = 10.0
PATIENCE_S = 1.0
"""How long tasks may wait for a process, or behind a handler that takes its time, before they are
given back.
"""
LEAVE_S = 2.0


class Owner(Protocol):
    """Whose tasks run here."""

    def started(self, leases: Iterable[Lease]) -> None:
        """Attempts with a timeout were begun."""

    def ended(self, ends: Iterable[tuple[Lease, TaskReport]]) -> None:
        """Attempts ended, each with what its process reports."""

    def release(self, leases: Iterable[Lease], reason: str) -> None:
        """Tasks are to be given back that no process was given."""

    def died(self, process: HandlerProcess) -> None:
        """A process is gone; ``outstanding`` is what it leaves behind."""

    def room_changed(self) -> None:
        """There may be room for more tasks."""


class Pool:
    """Spreads tasks over its processes and keeps as many of them alive as it was told."""

    def __init__(
        self,
        *,
        modules: Sequence[str],
        concurrency: int,
        processes: int,
        log_format: str,
        owner: Owner,
    ) -> None:
        self._modules = modules
        self._log_format = log_format
        self._owner = owner
        self._slots = [
            concurrency // processes + (number < concurrency % processes)
            for number in range(processes)
        ]
        self._processes: dict[int, HandlerProcess] = {}
        self._deaths = [0] * processes
        """How often in a row each died without having finished a task."""
        self._restarts: dict[int, asyncio.TimerHandle] = {}
        self._loading: dict[int, asyncio.Future[Loaded]] = {}
        self._unplaced: list[tuple[Lease, ClaimedTask]] = []
        """What came just when a process had died."""
        self._gone = asyncio.Event()
        self._closing = False
        self.task_types: Sequence[str] = ()

    async def start(self) -> None:
        """Start every process and have the handlers loaded; raises UsageError if they cannot be."""
        loop = asyncio.get_running_loop()
        self._loading = {number: loop.create_future() for number in range(len(self._slots))}
        waiting = list(self._loading.values())
        for number in range(len(self._slots)):
            self._spawn(number)
        loaded = await asyncio.gather(*waiting)
        problems = [problem for each in loaded for problem in each.problems]
        if problems:
            raise UsageError(list(dict.fromkeys(problems)))
        self.task_types = loaded[0].task_types

    def processes(self) -> list[HandlerProcess]:
        """Return those that can take tasks."""
        return [process for process in self._processes.values() if process.ready]

    def idle_slots(self) -> int:
        """How many slots have nothing to run."""
        return sum(max(0, each.slots - len(each.outstanding)) for each in self.processes())

    def room(self, ahead: int) -> int:
        """How many tasks can be taken, ``ahead`` of them to wait for a slot."""
        return max(0, sum(self._rooms(self.processes(), ahead)) - len(self._unplaced))

    def hand_in(self, tasks: Sequence[tuple[Lease, ClaimedTask]], ahead: int) -> None:
        """Hand tasks in; those that find no process wait a moment for one that restarts."""
        processes = self.processes()
        idle = [max(0, each.slots - len(each.outstanding)) for each in processes]
        given = shares(len(tasks), idle, self._rooms(processes, ahead))
        at = 0
        for process, share in zip(processes, given, strict=True):
            if share:
                process.hand_in(tasks[at : at + share])
                at += share
        if at < len(tasks):
            self._unplaced += tasks[at:]
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE_S, self._return, tasks[at:])

    def give_back(self) -> None:
        """Have what was not started returned."""
        self._return(list(self._unplaced))
        for process in self.processes():
            process.give_back()

    def give_back_stuck(self, now_s: float) -> bool:
        """Have returned what waits behind handlers that take longer than those before them did.

        False: nothing waits so.
        """
        stuck = [
            process
            for process in self.processes()
            if process.stuck_since_s(now_s) <= now_s - PATIENCE_S
        ]
        for process in stuck:
            process.give_back()
        return bool(stuck)

    async def close(self) -> None:
        """End every process: idle ones by leaving, those that do not leave by force."""
        self._closing = True
        for restart in self._restarts.values():
            restart.cancel()
        for process in self._processes.values():
            process.leave() if process.ready else process.kill("the worker shuts down")
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._all_gone()
        except TimeoutError:
            for process in self._processes.values():
                process.kill("the worker shuts down")
            await self._all_gone()

    async def _all_gone(self) -> None:
        while self._processes:
            self._gone.clear()
            await self._gone.wait()

    # ---------------------------------------------------------------- what processes say

    def loaded(self, process: HandlerProcess, loaded: Loaded) -> None:
        """Its handlers were imported, or could not be."""
        waiting = self._loading.pop(process.number, None)
        if waiting is not None:
            # Nothing to restart for where the first start fails: the worker ends.
            self._closing = self._closing or bool(loaded.problems)
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

    def ended(self, process: HandlerProcess, ends: Iterable[tuple[Lease, TaskReport]]) -> None:
        """Attempts came to an end."""
        self._deaths[process.number] = 0
        self._owner.ended(ends)

    def exited(self, process: HandlerProcess) -> None:
        """Pass on what it leaves behind and have another take its place."""
        number = process.number
        del self._processes[number]
        self._gone.set()
        if not self._closing:
            _logger.warning(
                "handler process ended",
                extra={
                    "pid": process.pid,
                    "cause": process.how_it_ended(),
                    "tasks": len(process.outstanding),
                },
            )
        self._owner.died(process)
        waiting = self._loading.pop(number, None)
        if waiting is not None and not waiting.cancelled():
            modules = ",".join(self._modules)
            problem = f"--handlers {modules}: while imported, {process.how_it_ended()}"
            waiting.set_result(Loaded(problems=[problem]))
        elif not self._closing:
            self._restart_later(number)

    def _restart_later(self, number: int) -> None:
        delay_s = restart_delay_s(self._deaths[number])
        self._deaths[number] += 1
        loop = asyncio.get_running_loop()
        self._restarts[number] = loop.call_later(delay_s, self._restart, number)

    def _restart(self, number: int) -> None:
        try:
            self._spawn(number)
        except OSError as error:
            # No memory, no file descriptors: what others give back may be enough a moment later.
            _logger.error("handler process cannot be started", extra={"error": str(error)})  # noqa: TRY400 - the cause is in the text
            self._restart_later(number)

    def _spawn(self, number: int) -> None:
        process = HandlerProcess(
            number=number,
            modules=self._modules,
            slots=self._slots[number],
            log_format=self._log_format,
            events=self,
        )
        self._processes[number] = process
        _logger.info("handler process started", extra={"pid": process.pid, "slots": process.slots})

    def _return(self, tasks: Sequence[tuple[Lease, ClaimedTask]]) -> None:
        """Give back those of these that still wait for a process."""
        late = {lease.token for lease, _ in tasks}
        waiting = [lease for lease, _ in self._unplaced if lease.token in late]
        self._unplaced = [each for each in self._unplaced if each[0].token not in late]
        self._owner.release(waiting, "no handler process takes it now")

    def _rooms(self, processes: Sequence[HandlerProcess], ahead: int) -> list[int]:
        spread = -(-ahead // len(self._slots))
        return [max(0, each.slots + spread - len(each.outstanding)) for each in processes]


def restart_delay_s(deaths: int) -> float:
    """How long to wait before a restart, after so many in a row that came to nothing."""
    return min(RESTART_MAX_S, RESTART_FIRST_S * 2 ** (deaths - 1)) if deaths else 0.0
