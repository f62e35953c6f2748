"""Releases tasks that were granted to a caller which could not receive the answer."""

from __future__ import annotations

from tq.v1 import worker_service_pb2
from tq_cluster.core.calls.claim import release_all
from tq_cluster.core.model.operations import Claim, Outcome, Replied, Report


def release_of(claim: Claim, outcome: Outcome) -> Report | None:
    """Return the report that releases what ``outcome`` granted to ``claim``; None if nothing."""
    if not isinstance(outcome, Replied):
        return None
    reply = outcome.reply
    if not isinstance(reply, worker_service_pb2.ClaimResponse) or not reply.tasks:
        return None
    return Report(request=release_all(claim.request, reply), caller=claim.caller)
