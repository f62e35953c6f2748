"""What to report of an attempt that has ended, depending on why it was asked to stop, if it was."""

from __future__ import annotations

from tq.v1.worker_service_pb2 import TaskReport
from tq_worker.wire import task_reports
from tq_worker.wire.lease import Lease, Stop


def settle(lease: Lease, report: TaskReport) -> TaskReport | None:
    """Decide what to report of an attempt whose process sent ``report``; None: nothing."""
    match lease.stop:
        case None:
            return report
        case Stop.LEASE_LOST:
            return None
        case Stop.TIMED_OUT:
            return task_reports.failed(lease.task_id, lease.token, timed_out(lease))
        case Stop.CANCELLED | Stop.LEASE_OVER | Stop.SHUTDOWN:
            # A completion counts. Any other end may be due to the stop, and is not a failure.
            if report.HasField("complete"):
                return report
            return task_reports.released(lease.task_id, lease.token, lease.stop.value)


def settle_death(lease: Lease, *, started: bool, cause: str, killed: bool) -> TaskReport | None:
    """Decide what to report of an attempt whose process ended first; None: nothing.

    ``killed``: the process was ended because of a lease, not by one of its handlers.
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
