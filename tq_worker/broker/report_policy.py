"""What the broker is told when an attempt has ended, given why it was asked to stop, if it was."""

from __future__ import annotations

from tq.v1.worker_service_pb2 import TaskReport
from tq_worker.wire import task_reports
from tq_worker.wire.lease import Lease, Stop


def settle(lease: Lease, report: TaskReport) -> TaskReport | None:
    """Decide what to report for an attempt whose handler process said ``report``; None: nothing."""
    match lease.stop:
        case None:
            return report
        case Stop.LEASE_LOST:
            return None
        case Stop.TIMED_OUT:
            return task_reports.failed(lease.task_id, lease.token, timed_out(lease))
        case Stop.CANCELLED | Stop.LEASE_OVER | Stop.SHUTDOWN:
            # Finished is finished. Anything else may be the stop's own doing, and nobody's failure.
            if report.HasField("complete"):
                return report
            return task_reports.released(lease.task_id, lease.token, lease.stop.value)


def settle_death(lease: Lease, *, started: bool, cause: str, killed: bool) -> TaskReport | None:
    """Decide what to report for an attempt whose process ended first.

    ``killed`` says that the process was ended for the sake of a lease, not by one of its handlers.
    """
    if lease.stop is Stop.LEASE_LOST:
        return None
    if not started:
        return task_reports.released(lease.task_id, lease.token, f"not started: {cause}")
    if lease.stop is Stop.TIMED_OUT:
        return task_reports.failed(
            lease.task_id, lease.token, f"{timed_out(lease)}; the handler did not stop: {cause}"
        )
    if lease.stop is not None:
        return task_reports.released(lease.task_id, lease.token, f"{lease.stop.value}: {cause}")
    if killed:
        return task_reports.released(lease.task_id, lease.token, cause)
    return task_reports.failed(lease.task_id, lease.token, cause)


def timed_out(lease: Lease) -> str:
    """Say that a timeout passed."""
    return f"timed out after {lease.timeout_s:g} s"
