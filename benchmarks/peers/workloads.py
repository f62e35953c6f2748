"""What is measured, the same for every system."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.peers.session import CALL_TASKS, IN_FLIGHT, Calls, Run, Session

SUBMITTED: Final = "submitted"
DRAINED: Final = "drained"
DONE: Final = "done"
"""The queues: one without a worker, one that is filled before its worker starts, one with a worker
from the start."""

RATE: Final = 100.0
WARM_UP_S: Final = 0.5
REMAINING_POLL_S: Final = 0.05
WORKER_START_S: Final = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The bounds of the workloads."""

    seconds: float = 2.0
    """How long each workload of submits lasts."""
    done_seconds: float = 4.0
    drain_tasks: int = 10_000
    drain_seconds: float = 8.0
    """The drain is measured for at most this long."""
    cell_seconds: float = 60.0
    """A workload that takes longer is ended, and its cell says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One column of the table."""

    key: str
    title: str
    unit: str


Measure = Callable[[Session, Sizes], Awaitable[Mapping[str, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Something to measure, and the columns that it fills."""

    name: str
    says: str
    measure: Measure
    metrics: tuple[Metric, ...]


async def _submit(session: Session, sizes: Sizes, *, tasks: int = 1, callers: int = 1) -> Run:
    """Submit after a moment that is not measured."""
    calls = Calls(queue=SUBMITTED, tasks=tasks, callers=callers, for_s=sizes.seconds)
    await session.repeat(replace(calls, for_s=min(WARM_UP_S, sizes.seconds)))
    return await session.repeat(calls)


async def alone(session: Session, sizes: Sizes) -> Mapping[str, float]:
    """One caller, one task at a time."""
    run = await _submit(session, sizes)
    return {
        "alone": run.rate,
        "alone_p50": run.calls.percentile(50) * 1e3,
        "alone_p99": run.calls.percentile(99) * 1e3,
    }


async def in_flight(session: Session, sizes: Sizes) -> Mapping[str, float]:
    """64 callers of one process, each one task at a time."""
    return {"in_flight": (await _submit(session, sizes, callers=IN_FLIGHT)).rate}


async def calls_of_many(session: Session, sizes: Sizes) -> Mapping[str, float]:
    """One caller, 100 tasks a call."""
    run = await _submit(session, sizes, tasks=CALL_TASKS)
    return {"calls_1": run.rate * CALL_TASKS}


async def ten_calls_of_many(session: Session, sizes: Sizes) -> Mapping[str, float]:
    """Ten callers, 100 tasks a call."""
    run = await _submit(session, sizes, tasks=CALL_TASKS, callers=10)
    return {"calls_10": run.rate * CALL_TASKS}


async def to_done(session: Session, sizes: Sizes) -> Mapping[str, float]:
    """100 tasks a second, begun by the clock, each until its submitter knows of its end."""
    with session.worker(DONE):
        # One task alone: it waits until the worker has started.
        await session.by_the_clock(RATE, 1 / RATE)
        await session.by_the_clock(RATE, min(1.0, sizes.done_seconds))
        samples = await session.by_the_clock(RATE, sizes.done_seconds)
    return {"done_p50": samples.percentile(50) * 1e3, "done_p99": samples.percentile(99) * 1e3}


async def drain(session: Session, sizes: Sizes) -> Mapping[str, float]:
    """The worker's rate from the first tenth of the tasks to the last, or until time is up.

    So the start of the worker is excluded, and its end.
    """
    tasks = sizes.drain_tasks
    await session.fill(DRAINED, tasks, sizes.cell_seconds)
    waiting = await session.remaining(DRAINED)
    if waiting != tasks:
        raise AssertionError(f"{waiting:,} tasks wait, not the {tasks:,} that were confirmed")
    with session.worker(DRAINED):
        begin_s, begin = await _until(session, tasks * 9 // 10, WORKER_START_S)
        end_s, end = await _until(session, tasks // 10, sizes.drain_seconds)
    if begin - end < tasks // 100:
        raise AssertionError(
            f"{begin:,} tasks remained, then {end:,} after {end_s - begin_s:.2f} s: no rate"
        )
    return {"drain": (begin - end) / (end_s - begin_s)}


async def _until(session: Session, tasks: int, within_s: float) -> tuple[float, int]:
    """Poll until at most ``tasks`` remain or time is up; return the instant and the number."""
    begun_s = time.perf_counter()
    while True:
        remaining = await session.remaining(DRAINED)
        now_s = time.perf_counter()
        if remaining <= tasks or now_s - begun_s > within_s:
            return now_s, remaining
        await asyncio.sleep(REMAINING_POLL_S)


WORKLOADS: Final = (
    Workload(
        name="alone",
        says="submit, one task at a time, one caller",
        measure=alone,
        metrics=(
            Metric(key="alone", title="submit, one at a time", unit="tasks/s"),
            Metric(key="alone_p50", title="one submit, p50", unit="ms"),
            Metric(key="alone_p99", title="one submit, p99", unit="ms"),
        ),
    ),
    Workload(
        name="in_flight",
        says=f"submit, {IN_FLIGHT} tasks in flight from one process",
        measure=in_flight,
        metrics=(Metric(key="in_flight", title=f"submit, {IN_FLIGHT} in flight", unit="tasks/s"),),
    ),
    Workload(
        name="calls_1",
        says=f"submit, {CALL_TASKS} tasks a call, one call at a time",
        measure=calls_of_many,
        metrics=(
            Metric(key="calls_1", title=f"calls of {CALL_TASKS}, one in flight", unit="tasks/s"),
        ),
    ),
    Workload(
        name="calls_10",
        says=f"submit, {CALL_TASKS} tasks a call, ten calls in flight",
        measure=ten_calls_of_many,
        metrics=(
            Metric(key="calls_10", title=f"calls of {CALL_TASKS}, ten in flight", unit="tasks/s"),
        ),
    ),
    Workload(
        name="done",
        says=f"submit to done, {RATE:g} tasks a second by the clock: until the submitter knows",
        measure=to_done,
        metrics=(
            Metric(key="done_p50", title=f"submit to done at {RATE:g}/s, p50", unit="ms"),
            Metric(key="done_p99", title=f"submit to done at {RATE:g}/s, p99", unit="ms"),
        ),
    ),
    Workload(
        name="drain",
        says="the system's own worker empties a queue, with an acknowledgement for each task",
        measure=drain,
        metrics=(Metric(key="drain", title="drained by the worker", unit="tasks/s"),),
    ),
)
