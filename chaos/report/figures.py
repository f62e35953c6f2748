"""Latency and throughput, over the run and around each fault."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.context import Happening
from chaos.history.calls import (
    Answer,
    Call,
    ClaimCall,
    HeartbeatCall,
    ReadCall,
    ReportCall,
    SubmitCall,
)
from chaos.history.outages import outage
from chaos.history.record import Ledger

AROUND_S = 2.0
"""The length of the spans before and after a fault that are compared with it."""
KINDS: dict[type[Call], str] = {
    SubmitCall: "submit",
    ClaimCall: "claim",
    ReportCall: "report",
    HeartbeatCall: "heartbeat",
    ReadCall: "read",
}
OTHER = "operator"


def kind_of(call: Call) -> str:
    """The name of a call's kind in the report."""
    return KINDS.get(type(call), OTHER)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The percentile by nearest rank; None if there are no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass(frozen=True, slots=True)
class Span:
    """The submits of a stretch of time, as their senders saw them."""

    length_s: float
    acknowledged: int
    p50_s: float | None
    p99_s: float | None

    @property
    def per_s(self) -> float:
        """Acknowledged submits a second."""
        return self.acknowledged / self.length_s if self.length_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Around:
    """A fault with what writers saw before, during and after it."""

    happening: Happening
    before: Span
    during: Span
    after: Span
    outage_s: float | None
    """From the fault to the first acknowledgement of a write sent after it."""


def around(ledger: Ledger, happening: Happening) -> Around:
    """Compare the writes before, during and after a fault."""
    ended_s = happening.began_s if happening.ended_s is None else happening.ended_s
    measured = outage(ledger, happening.began_s)
    return Around(
        happening,
        span(ledger, happening.began_s - AROUND_S, happening.began_s),
        span(ledger, happening.began_s, ended_s),
        span(ledger, ended_s, ended_s + AROUND_S),
        None if measured is None else measured.length_s,
    )


def span(ledger: Ledger, from_s: float, until_s: float) -> Span:
    """Sum up the submits that were sent in a stretch of time."""
    waits = [
        call.known_by_s - call.began_s
        for call in ledger.calls
        if isinstance(call, SubmitCall)
        and call.answer is Answer.APPLIED
        and from_s <= call.began_s < until_s
    ]
    return Span(until_s - from_s, len(waits), percentile(waits, 50), percentile(waits, 99))


def rates(calls: Sequence[Call], start_s: float, end_s: float, bin_s: float) -> list[float]:
    """Answered calls a second, one figure for each ``bin_s`` seconds."""
    counts = [0] * max(1, math.ceil((end_s - start_s) / bin_s))
    for call in calls:
        if call.ended_s is not None and start_s <= call.ended_s < end_s:
            counts[int((call.ended_s - start_s) / bin_s)] += 1
    return [count / bin_s for count in counts]
