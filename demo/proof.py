"""The proof of the run: the brokers' answers compared with the local record."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from chaos.history.outages import Outage
from demo import work
from demo.trace import Request, Trace
from tq_client import AttemptEnd, Task, TaskState

CHUNK = 64


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the proof; ``holds`` is None for a figure that is no promise."""

    name: str
    value: str
    holds: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that the proof is based on."""

    trace: Trace
    acknowledged: Mapping[str, int]
    """Task id to request number, from the answers to the client."""
    listed: Mapping[str, TaskState]
    """What the brokers list of the trace's queue at the end."""
    finished: Mapping[str, Task]
    """The tasks as the brokers returned them."""
    expected: Mapping[int, bytes]
    """Request number to the result recomputed here."""
    runs: Counter[str]
    """Task id to how often a handler started on it, as the handlers recorded."""
    failures: Sequence[str]
    probe_acknowledged: frozenset[str]
    probe_listed: frozenset[str]
    outages: Sequence[Outage]
    kills: int
    stale_sent: int
    stale_refused: int
    stale_kept: int
    checker_calls: int
    violations: Sequence[str]
    """What the checker found in the ledger of the probe and the stale worker."""


def lines(evidence: Evidence) -> Iterable[Line]:
    """Yield the lines of the proof."""
    tasks = evidence.finished
    requests = len(evidence.trace.requests)
    acknowledged = len(evidence.acknowledged)
    completed = [t for t in tasks.values() if t.state == TaskState.COMPLETED]
    yield Line("submitted", f"{acknowledged:,} of {requests:,}", acknowledged == requests)
    yield Line("completed", f"{len(completed):,}", len(completed) == requests)

    numbers = evidence.acknowledged
    equal = sum(
        task.task_id in numbers and task.result == evidence.expected[numbers[task.task_id]]
        for task in completed
    )
    yield Line("results equal to a local recomputation", f"{equal:,}", equal == requests)

    attempts = Counter(task.attempts_made for task in tasks.values())
    total = sum(number * count for number, count in attempts.items())
    again = sum(count for number, count in attempts.items() if number > 1)
    yield Line("attempts", f"{total:,}; {again:,} took more than one", total >= requests)
    started = sum(evidence.runs.values())
    yield Line("handler runs, by their own record", f"{started:,}", started >= requests)

    twice = sum(_completions(task) > 1 for task in tasks.values())
    copies = len(evidence.listed) - len(set(evidence.acknowledged) & set(evidence.listed))
    yield Line("tasks completed twice", f"{twice:,}", twice == 0)
    yield Line("tasks created twice", f"{copies:,}", copies == 0)

    missing = set(evidence.acknowledged) - {
        task_id for task_id, state in evidence.listed.items() if state == TaskState.COMPLETED
    }
    lost_probes = evidence.probe_acknowledged - evidence.probe_listed
    lost = len(missing) + len(lost_probes)
    of = acknowledged + len(evidence.probe_acknowledged)
    yield Line("lost", f"{lost:,} of {of:,} acknowledged", lost == 0)

    yield Line(
        "stale reports refused",
        f"{evidence.stale_refused} of {evidence.stale_sent}; {evidence.stale_kept} of the"
        " holders' results stand",
        evidence.stale_sent >= evidence.kills
        and evidence.stale_refused == evidence.stale_kept == evidence.stale_sent,
    )
    yield Line("leaders killed", f"{evidence.kills}", len(evidence.outages) == evidence.kills)
    lengths = ", ".join(f"{outage.length_s * 1e3:,.0f}" for outage in evidence.outages)
    yield Line("length of each write outage", f"{lengths or 'none'} ms")
    yield Line(
        "calls of the probe judged",
        f"{evidence.checker_calls:,}, {len(evidence.violations) or 'no'} violations",
        not evidence.violations,
    )
    if evidence.failures:
        first = "; ".join(evidence.failures[:3])
        yield Line("calls given up", f"{len(evidence.failures):,}: {first}", holds=False)


async def recompute(requests: Sequence[Request]) -> dict[int, bytes]:
    """Compute every result here, on every core, from the trace alone."""
    loop = asyncio.get_running_loop()
    chunks = [requests[at : at + CHUNK] for at in range(0, len(requests), CHUNK)]
    # Spawned, not forked: this process speaks gRPC.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        parts = await asyncio.gather(
            *(loop.run_in_executor(pool, _recompute, chunk) for chunk in chunks)
        )
    return {number: result for part in parts for number, result in part}


def _recompute(requests: Sequence[Request]) -> list[tuple[int, bytes]]:
    return [(request.number, work.expected(request)) for request in requests]


def _completions(task: Task) -> int:
    return sum(attempt.end == AttemptEnd.COMPLETED for attempt in task.attempts)
