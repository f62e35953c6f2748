"""What was granted to a caller who could not be told is given back."""

from __future__ import annotations

from tq.v1 import worker_service_pb2
from tq_cluster.core.operations import Claim, Outcome, Replied, Report


def release_of(claim: Claim, outcome: Outcome) -> Report | None:
    """Return the report that releases whatever ``outcome`` granted to ``claim``, if anything."""
    if not isinstance(outcome, Replied):
        return None
    reply = outcome.reply
    if not isinstance(reply, worker_service_pb2.ClaimResponse) or not reply.tasks:
        return None
    request = worker_service_pb2.ReportRequest(worker_id=claim.request.worker_id)
    for task in reply.tasks:
        report = request.reports.add(task_id=task.spec.task_id, token=task.token)
        report.release.reason = "the claim's caller had gone before it was answered"
    return Report(request=request, caller=claim.caller)
