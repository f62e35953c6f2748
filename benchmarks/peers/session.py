"""A system that runs, as the workloads use it: its client, its worker and its count of tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Samples

PAYLOAD: Final = b"0123456789abcdef" * 16
"""256 bytes that are also text: some systems carry only JSON, and all get the same."""
IN_FLIGHT: Final = 64
CALL_TASKS: Final = 100
CALLS_MAX: Final = 1_000_000
TO_DONE_S: Final = 20.0
"""How long a task may take from submit to done, unless its system has no limit to set."""
POLL_S: Final = 0.01
"""How often a submitter asks, if its system offers no call that waits for the end of a task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Submit to a queue again and again, from several callers, until a bound is reached."""

    queue: str
    tasks: int = 1
    """The tasks of one call."""
    callers: int = 1
    for_s: float
    calls_max: int = CALLS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How long each call took, and the whole."""

    calls: Samples
    took_s: float

    @property
    def rate(self) -> float:
        """The calls that were confirmed in a second."""
        return len(self.calls.values) / self.took_s


class Session(ABC):
    """A system that runs."""

    calls_of_many = True
    """Whether one call can submit many tasks."""

    @abstractmethod
    async def repeat(self, calls: Calls) -> Run:
        """Submit, and return how long each call took until its confirmation."""

    @abstractmethod
    async def by_the_clock(self, rate: float, for_s: float) -> Samples:
        """Submit ``rate`` tasks a second to the queue with a worker, and wait for each result.

        A task starts at its time, however long others take; each is measured from that time on.
        """

    @abstractmethod
    def worker(self, queue: str) -> AbstractContextManager[None]:
        """Run the system's own worker on a queue, with a handler that does nothing."""

    @abstractmethod
    async def remaining(self, queue: str) -> int:
        """Count the tasks that are not yet acknowledged."""

    async def fill(self, queue: str, tasks: int, within_s: float) -> None:
        """Submit exactly ``tasks`` tasks, as fast as the client can."""
        each = CALL_TASKS if self.calls_of_many else 1
        callers = 10 if self.calls_of_many else IN_FLIGHT
        run = await self.repeat(
            Calls(queue=queue, tasks=each, callers=callers, for_s=within_s, calls_max=tasks // each)
        )
        if len(run.calls.values) * each != tasks:
            raise TimeoutError(f"{len(run.calls.values) * each:,} of {tasks:,} tasks submitted")


class AsyncSession(Session):
    """A system whose client runs on the event loop."""

    @abstractmethod
    async def submit(self, queue: str) -> None:
        """Submit one task, and return once the system has confirmed it."""

    async def submit_many(self, queue: str, tasks: int) -> None:
        """Submit tasks, in one call if there is one, and return once all are confirmed."""
        await asyncio.gather(*(self.submit(queue) for _ in range(tasks)))

    async def to_done(self) -> None:
        """Submit one task to the queue with a worker, and return once its end is known."""
        raise NotImplementedError(f"{type(self).__name__} has no worker")

    async def repeat(self, calls: Calls) -> Run:
        samples = Samples()
        left = calls.calls_max
        begun_s = time.perf_counter()

        async def caller() -> None:
            nonlocal left
            while left > 0 and (sent_s := time.perf_counter()) - begun_s < calls.for_s:
                left -= 1
                if calls.tasks == 1:
                    await self.submit(calls.queue)
                else:
                    await self.submit_many(calls.queue, calls.tasks)
                samples.add(time.perf_counter() - sent_s)

        async with asyncio.TaskGroup() as group:
            for _ in range(calls.callers):
                group.create_task(caller())
        return Run(calls=samples, took_s=time.perf_counter() - begun_s)

    async def by_the_clock(self, rate: float, for_s: float) -> Samples:
        samples = Samples()

        async def one(due_s: float) -> None:
            async with asyncio.timeout(TO_DONE_S):
                await self.to_done()
            samples.add(time.perf_counter() - due_s)

        begun_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(max(1, int(for_s * rate))):
                due_s = begun_s + number / rate
                await asyncio.sleep(due_s - time.perf_counter())
                group.create_task(one(due_s))
        return samples


class SubmitsOnly(AsyncSession):
    """A system, or a client, that is measured by its submits alone."""

    def worker(self, queue: str) -> AbstractContextManager[None]:
        raise NotImplementedError(f"{type(self).__name__} has no worker for {queue}")

    async def remaining(self, queue: str) -> int:
        raise NotImplementedError(f"{type(self).__name__} does not count {queue}")


class BlockingSession(Session):
    """A system whose client blocks its thread: each caller is a thread of this process."""

    calls_of_many = False

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(IN_FLIGHT)
        self._stopped = threading.Event()

    @abstractmethod
    def submit(self, queue: str) -> None:
        """Submit one task, and return once the system has confirmed it."""

    @abstractmethod
    def to_done(self) -> None:
        """Submit one task to the queue with a worker, and return once its end is known."""

    def close(self) -> None:
        """Let no caller begin another call; a call in flight ends by its own time limit."""
        self._stopped.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def repeat(self, calls: Calls) -> Run:
        begun_s = time.perf_counter()
        each = [
            calls.calls_max // calls.callers + (number < calls.calls_max % calls.callers)
            for number in range(calls.callers)
        ]
        loop = asyncio.get_running_loop()
        given_up = threading.Event()

        def caller(most: int) -> list[float]:
            took: list[float] = []
            while len(took) < most and not (given_up.is_set() or self._stopped.is_set()):
                sent_s = time.perf_counter()
                if sent_s - begun_s >= calls.for_s:
                    break
                self.submit(calls.queue)
                took.append(time.perf_counter() - sent_s)
            return took

        try:
            runs = await asyncio.gather(
                *(loop.run_in_executor(self._threads, caller, most) for most in each)
            )
        finally:
            given_up.set()
        took_s = time.perf_counter() - begun_s
        return Run(calls=Samples([value for run in runs for value in run]), took_s=took_s)

    async def by_the_clock(self, rate: float, for_s: float) -> Samples:
        loop = asyncio.get_running_loop()

        def one(due_s: float) -> float:
            self.to_done()
            return time.perf_counter() - due_s

        begun_s = time.perf_counter()
        waits = []
        for number in range(max(1, int(for_s * rate))):
            due_s = begun_s + number / rate
            await asyncio.sleep(due_s - time.perf_counter())
            waits.append(loop.run_in_executor(self._threads, one, due_s))
        return Samples(list(await asyncio.gather(*waits)))
