"""What the outcomes of decided operations say, and how their callers are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tq.v1 import worker_service_pb2
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.core.model.operations import Claim, ExpireLeases, Outcome, Replied, Report
from tq_cluster.core.model.types import FencingToken
from tq_cluster.leader.line import Waiting


def may_end(batch: Iterable[Waiting]) -> frozenset[FencingToken]:
    """Return the leases that a batch may end, independent of its decision."""
    tokens: set[FencingToken] = set()
    for each in batch:
        match each.operation:
            case ExpireLeases():
                tokens.update(lease.token for lease in each.operation.leases)
            case Report():
                reports = each.operation.request.reports[: DEFAULT_LIMITS.reports_max]
                tokens.update(FencingToken(report.token) for report in reports)
    return frozenset(tokens)


def grants(outcome: Outcome) -> bool:
    """Whether the outcome grants leases, which are released if their holder has gone."""
    if not isinstance(outcome, Replied):
        return False
    reply = outcome.reply
    return isinstance(reply, worker_service_pb2.ClaimResponse) and bool(reply.tasks)


def goes_on_waiting(waiting: Waiting, outcome: Outcome) -> bool:
    """Whether a claim has found nothing and waits: its caller is not told of the outcome."""
    operation = waiting.operation
    if not (isinstance(operation, Claim) and operation.waits) or type(outcome) is not Replied:
        return False
    reply = outcome.reply
    assert isinstance(reply, worker_service_pb2.ClaimResponse)
    return not reply.tasks and not reply.lost_task_ids


def tell(told: tuple[asyncio.Future[Outcome], Outcome]) -> None:
    """Give a caller its outcome, unless it is gone."""
    future, outcome = told
    if not future.done():
        future.set_result(outcome)


def noted(outcome: asyncio.Future[Outcome]) -> None:
    """Note the outcome of a release, for which no caller waits: if it fails, the lease runs out."""
    outcome.exception()


def fail(outcome: asyncio.Future[Outcome], error: BaseException) -> None:
    """Give a caller its error, unless it is gone."""
    if not outcome.done():
        outcome.set_exception(error)
        outcome.exception()  # housekeeping never reads its futures; mark the error as seen
