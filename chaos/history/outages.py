"""The lengths of write outages, computed from a ledger."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from chaos.history.calls import Answer, SubmitCall
from chaos.history.record import Ledger


@dataclass(frozen=True, slots=True)
class Outage:
    """The time from a fault to the first acknowledgement of a write that was sent after it."""

    fault_s: float
    over_s: float

    @property
    def length_s(self) -> float:
        """Its length; the pace of the writes limits how short a length can be seen."""
        return self.over_s - self.fault_s


def first_acknowledged_s(ledger: Ledger, since_s: float) -> float | None:
    """When the first write that was sent at ``since_s`` or later was acknowledged."""
    answered = [
        call.known_by_s
        for call in ledger.calls_since(since_s)
        if isinstance(call, SubmitCall) and call.answer is Answer.APPLIED
    ]
    return min(answered, default=None)


def outage(ledger: Ledger, fault_s: float) -> Outage | None:
    """The outage that a fault at ``fault_s`` caused; None while it lasts."""
    over_s = first_acknowledged_s(ledger, fault_s)
    return None if over_s is None else Outage(fault_s, over_s)


def longest_silence(ledger: Ledger, from_s: float, until_s: float) -> float:
    """For how long at most, between these instants, no write that was sent was acknowledged."""
    writes = [
        call
        for call in ledger.calls_since(from_s)
        if isinstance(call, SubmitCall) and call.began_s < until_s
    ]
    writes.sort(key=lambda call: call.began_s)
    longest_s, known_s = 0.0, until_s
    for call in reversed(writes):
        if call.answer is Answer.APPLIED:
            known_s = min(known_s, call.known_by_s)
        longest_s = max(longest_s, known_s - call.began_s)
    return longest_s


def summary(outages: Sequence[Outage]) -> str:
    """Put their lengths into one line."""
    lengths = [one.length_s for one in outages]
    return (
        f"{len(lengths)} write outages: median {statistics.median(lengths) * 1e3:.0f} ms,"
        f" worst {max(lengths) * 1e3:.0f} ms"
        f" ({', '.join(f'{length * 1e3:.0f}' for length in lengths)})"
    )
