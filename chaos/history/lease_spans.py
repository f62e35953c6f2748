"""The times between which a worker that honours its deadlines acted as a task's holder."""

from __future__ import annotations

from dataclasses import dataclass

from chaos.history.calls import ClaimCall, Grant, HeartbeatCall, Renewal, ReportCall
from chaos.history.facts import LeaseFacts

CLOCK_MARGIN = 0.01
"""A worker stops this part of the lease's length early: clocks may differ by 1 % in rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSpan:
    """``worker_id`` acted as holder from ``from_s`` on, and had stopped by ``until_s``."""

    token: int
    worker_id: str
    from_s: float
    until_s: float

    def overlaps(self, other: LeaseSpan) -> bool:
        """Whether there was an instant at which both acted as holders."""
        return max(self.from_s, other.from_s) < min(self.until_s, other.until_s)


def belief(lease: LeaseFacts) -> LeaseSpan | None:
    """Follow one lease as its holder did; None if no claim's answer named it.

    A renewal that arrives after the deadline comes too late: the worker has stopped by then.
    """
    events: list[tuple[float, ClaimCall | HeartbeatCall | ReportCall, Grant | Renewal | None]] = [
        *((claim.known_by_s, claim, grant) for claim, grant in lease.granted),
        *((beat.known_by_s, beat, renewal) for beat, renewal in lease.renewals),
        *((report.began_s, report, None) for report in lease.reports),
    ]
    held: LeaseSpan | None = None
    for at_s, call, detail in sorted(events, key=lambda event: event[0]):
        if isinstance(detail, Grant):
            until_s = call.began_s + detail.waited_s + detail.lease_s * (1 - CLOCK_MARGIN)
            if held is None:
                held = LeaseSpan(
                    token=lease.token, worker_id=call.actor, from_s=at_s, until_s=until_s
                )
            elif call.actor == held.worker_id:
                held = _moved(held, at_s, until_s)
        elif held is None or call.actor != held.worker_id:
            continue
        elif isinstance(detail, Renewal):
            if detail.renewed:
                until_s = call.began_s + detail.lease_s * (1 - CLOCK_MARGIN)
                held = _moved(held, at_s, until_s)
            else:
                return _stopped(held, at_s)
        else:
            return _stopped(held, at_s)
    return held


def _moved(held: LeaseSpan, at_s: float, until_s: float) -> LeaseSpan:
    if at_s > held.until_s or until_s <= held.until_s:
        return held
    return LeaseSpan(
        token=held.token, worker_id=held.worker_id, from_s=held.from_s, until_s=until_s
    )


def _stopped(held: LeaseSpan, at_s: float) -> LeaseSpan:
    return LeaseSpan(
        token=held.token,
        worker_id=held.worker_id,
        from_s=held.from_s,
        until_s=min(held.until_s, at_s),
    )
