"""A cluster that was lost for good, and the new one that was made of what was left of it.

What the old one acknowledged towards its end is gone then, or is not, and nobody can tell by the
answer. So the answer no longer counts: the call is a "maybe", like one that was never answered.
Everything else stands, and so does what every cluster owed its callers while it lived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from chaos.history.calls import Answer, Call, HeartbeatCall, ReadCall, ReportCall, ReportStatus

CallT = TypeVar("CallT", bound=Call)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """When it happened, on the ledger's clock, and what was done about it."""

    certain_s: float
    """What was acknowledged until then is not lost."""
    gone_s: float
    """From then on no node of the old cluster did anything,"""
    back_s: float
    """and until then none of the new one."""
    quarantined: bool
    """Whether the tasks that ran are dead letters now; otherwise they wait again."""

    def may_have_taken(self, call: Call) -> bool:
        """Whether the call was answered, and the answer may hold no longer."""
        return call.ended_s is not None and self.certain_s < call.ended_s <= self.back_s


def counted(calls: Iterable[Call], losses: Sequence[Loss]) -> Iterator[Call]:
    """The calls as they count once this was lost.

    A look at what may be lost says nothing any more, and neither does a report's refusal for what
    was seen there.
    """
    for call in calls:
        if not any(loss.may_have_taken(call) for loss in losses):
            yield call
        elif isinstance(call, ReportCall):
            if call.answer is Answer.APPLIED:
                yield replace(_unanswered(call), status=ReportStatus.STATUS_UNSPECIFIED)
        elif call.answer is Answer.REFUSED:
            yield call
        elif not isinstance(call, ReadCall | HeartbeatCall):
            yield _unanswered(call)


def _unanswered(call: CallT) -> CallT:
    return replace(call, ended_s=None, answer=Answer.UNKNOWN)
