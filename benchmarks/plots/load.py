"""Offered load: calls that begin by the clock, however long others take.

A submitter that waits for each answer offers less whenever the queue is slow, and so measures few
of the slow calls. Here each call has an intended start, and its latency counts from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.figures import percentile
from tq_client import TqError

P99_MAX_MS: Final = 1_000.0
ACHIEVED_MIN: Final = 0.9
"""The share of the offered rate below which the queue does not keep up."""

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a step lasts, in time and in calls."""

    seconds: float = 10.0
    calls_min: int = 1_000
    """A step lasts longer than ``seconds`` at a low rate, so that the p99 is one of many."""
    calls_max: int = 100_000
    """A step is shorter than ``seconds`` at a high rate."""
    warm_up: float = 0.2
    """The share of a step whose calls are not counted."""
    in_flight_max: int = 20_000
    """More calls that wait end a step: the queue does not keep up."""
    late_max_s: float = 2.0
    """A call that begins later ends a step: this process does not keep up."""
    drain_s: float = 5.0
    """How long the last calls may take."""

    def calls(self, rate: float) -> int:
        """The calls of a step."""
        least = max(1, min(self.calls_min, self.calls_max))
        return min(max(int(rate * self.seconds), least), max(1, self.calls_max))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one offered rate led to."""

    offered_per_s: float
    achieved_per_s: float
    """The calls that ended well in a second, while the load was on."""
    p50_ms: float
    p99_ms: float
    worst_ms: float
    late_p99_ms: float
    """How late calls began: above a few ms, this process or the machine is overloaded."""
    counted: int
    failed: int
    unfinished: int
    """The calls that did not end. Each, like one that failed, counts until the end of the step."""
    cut_short: str
    """Why the step ended before its last call; empty: it did not."""


@dataclass(slots=True)
class _Calls:
    """The calls of a step: when each was due, and when it ended, if it did."""

    due_s: list[float] = field(default_factory=list)
    ended_s: dict[int, float] = field(default_factory=dict)
    late_s: list[float] = field(default_factory=list)
    failed: int = 0


async def offer(call: Call, rate: float, limits: Limits) -> Step:
    """Begin calls at ``rate`` a second by the event loop's clock, for as long as the limits say."""
    loop = asyncio.get_running_loop()
    calls = _Calls()
    in_flight: set[asyncio.Task[None]] = set()
    faults: list[BaseException] = []

    def done(task: asyncio.Task[None]) -> None:
        in_flight.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            faults.append(fault)

    async def one(number: int) -> None:
        try:
            await call()
        except TqError:
            calls.failed += 1
        else:
            calls.ended_s[number] = loop.time()

    begun_s = loop.time()
    cut_short = ""
    number, last = 0, limits.calls(rate)
    try:
        while number < last and not cut_short:
            # All that is due begins at once. Then answers are read, even if more is due by then.
            due = min(last, max(number, int((loop.time() - begun_s) * rate)) + 1)
            for each in range(number, due):
                due_s = begun_s + each / rate
                late_s = loop.time() - due_s
                if late_s > limits.late_max_s:
                    cut_short = f"calls began {limits.late_max_s:g} s late"
                elif len(in_flight) >= limits.in_flight_max:
                    cut_short = f"{limits.in_flight_max:,} calls waited"
                if cut_short:
                    break
                calls.due_s.append(due_s)
                calls.late_s.append(late_s)
                task = asyncio.create_task(one(each))
                in_flight.add(task)
                task.add_done_callback(done)
            number = due
            await asyncio.sleep(max(0.0, begun_s + number / rate - loop.time()))
        offered_until_s = loop.time()
        if in_flight:
            await asyncio.wait(in_flight, timeout=limits.drain_s)
    finally:
        left = list(in_flight)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    if faults:
        raise faults[0]
    return _step(
        calls,
        rate,
        begun_s + (offered_until_s - begun_s) * limits.warm_up,
        offered_until_s,
        loop.time(),
        cut_short=cut_short,
    )


def _step(
    calls: _Calls,
    rate: float,
    counted_from_s: float,
    offered_until_s: float,
    ended_s: float,
    *,
    cut_short: str,
) -> Step:
    numbers = [number for number, due_s in enumerate(calls.due_s) if due_s >= counted_from_s]
    if not numbers:
        numbers = list(range(len(calls.due_s)))
    took_s = [calls.ended_s.get(number, ended_s) - calls.due_s[number] for number in numbers]
    ended = [at_s for at_s in calls.ended_s.values() if counted_from_s <= at_s <= offered_until_s]
    over_s = max(offered_until_s - counted_from_s, 1 / rate)
    return Step(
        offered_per_s=rate,
        achieved_per_s=len(ended) / over_s,
        p50_ms=percentile(took_s, 50) * 1e3,
        p99_ms=percentile(took_s, 99) * 1e3,
        worst_ms=max(took_s) * 1e3,
        late_p99_ms=percentile([calls.late_s[number] for number in numbers], 99) * 1e3,
        counted=len(numbers),
        failed=calls.failed,
        unfinished=len(calls.due_s) - len(calls.ended_s) - calls.failed,
        cut_short=cut_short,
    )


def overload(step: Step) -> str | None:
    """Say why there is no sense in a higher rate; None: the queue kept up."""
    at = f"at {step.offered_per_s:,.0f}/s offered"
    if step.cut_short:
        return f"{at} {step.cut_short}"
    if step.achieved_per_s < ACHIEVED_MIN * step.offered_per_s:
        return f"{at} {step.achieved_per_s:,.0f}/s were achieved"
    if step.p99_ms > P99_MAX_MS:
        return f"{at} the p99 was {step.p99_ms / 1e3:,.1f} s"
    return None


async def climb(
    call: Call,
    rates: Sequence[float],
    limits: Limits,
    *,
    until_s: float,
    found: Callable[[Step], None],
    settle: Callable[[], Awaitable[None]],
) -> str:
    """Offer one rate after the other, and pass on each step; return why there were no more.

    No step begins after ``until_s`` of the event loop's clock. ``settle`` runs between two steps.
    """
    for number, rate in enumerate(rates):
        if number:
            await settle()
        if asyncio.get_running_loop().time() >= until_s:
            return f"there was no time left for {rate:,.0f}/s"
        step = await offer(call, rate, limits)
        found(step)
        if (reason := overload(step)) is not None:
            return reason
    return "the queue kept up with every rate"
