"""A cluster that was lost for good, and the new one that was made from its remaining files.

What the old cluster acknowledged towards its end may be gone, and the answer does not show whether
it is. So the answer no longer counts: the call is a "maybe", like one without an answer. All other
answers count, and each cluster still owes its callers everything while it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from chaos.history.calls import Answer, Call, HeartbeatCall, ReadCall, ReportCall, ReportStatus

CallT = TypeVar("CallT", bound=Call)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """When the loss happened, on the ledger's clock, and how it was recovered."""

    certain_s: float
    """Nothing that was acknowledged until then is lost."""
    gone_s: float
    """From then on no node of the old cluster ran."""
    back_s: float
    """Until then no node of the new cluster ran."""
    quarantined: bool
    """Whether the tasks that were running became dead letters; otherwise they wait again."""

    def may_have_taken(self, call: Call) -> bool:
        """Whether the call was answered, but its effect may be lost."""
        return call.ended_s is not None and self.certain_s < call.ended_s <= self.back_s


def counted(calls: Iterable[Call], losses: Sequence[Loss]) -> Iterator[Call]:
    """The calls as they count after these losses.

    A read of what may be lost proves nothing any more, and neither does a report's refusal that is
    based on it.
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
