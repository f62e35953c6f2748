from __future__ import annotations

import pytest

from tq.v1.worker_service_pb2 import TaskReport
from tq_worker.broker.report_policy import settle, settle_death
from tq_worker.wire import task_reports
from tq_worker.wire.lease import Lease, Stop

COMPLETED = task_reports.returned("t", 7, b"result")
FAILED = task_reports.raised("t", 7, ValueError("broken"))
STOPPED = task_reports.released("t", 7, "stopped")


def lease(stop: Stop | None = None) -> Lease:
    return Lease(
        task_id="t",
        task_type="x",
        token=7,
        attempt=1,
        length_s=30.0,
        until_s=100.0,
        timeout_s=2.0,
        stop=stop,
    )


def told(report: TaskReport | None) -> tuple[str, str]:
    """Return the kind of a report and its words."""
    if report is None:
        return ("nothing", "")
    assert (report.task_id, report.token) == ("t", 7)
    kind = report.WhichOneof("outcome")
    assert kind is not None
    return (kind, report.fail.error.partition("\n")[0] or report.release.reason)


@pytest.mark.parametrize(
    ("stop", "said", "expected"),
    [
        (None, COMPLETED, ("complete", "")),
        (None, FAILED, ("fail", "ValueError: broken")),
        (Stop.TIMED_OUT, STOPPED, ("fail", "timed out after 2 s")),
        (Stop.TIMED_OUT, COMPLETED, ("fail", "timed out after 2 s")),
        (Stop.CANCELLED, STOPPED, ("release", "the task was cancelled")),
        (Stop.CANCELLED, COMPLETED, ("complete", "")),
        (Stop.SHUTDOWN, FAILED, ("release", "the worker shuts down")),
        (Stop.SHUTDOWN, COMPLETED, ("complete", "")),
        (Stop.LEASE_LOST, COMPLETED, ("nothing", "")),
        (Stop.LEASE_LOST, FAILED, ("nothing", "")),
    ],
)
def test_what_is_reported_depends_on_why_the_handler_was_stopped(
    stop: Stop | None, said: TaskReport, expected: tuple[str, str]
) -> None:
    assert told(settle(lease(stop), said)) == expected


@pytest.mark.parametrize(
    ("stop", "started", "killed", "expected"),
    [
        (None, True, False, ("fail", "it died")),
        (None, True, True, ("release", "it died")),
        (None, False, False, ("release", "not started: it died")),
        (
            Stop.TIMED_OUT,
            True,
            True,
            ("fail", "timed out after 2 s; the handler did not stop: it died"),
        ),
        (Stop.CANCELLED, True, True, ("release", "the task was cancelled: it died")),
        (Stop.LEASE_LOST, True, True, ("nothing", "")),
        (Stop.LEASE_LOST, False, False, ("nothing", "")),
    ],
)
def test_only_tasks_that_had_started_fail_with_a_process_that_died_by_itself(
    stop: Stop | None, started: bool, killed: bool, expected: tuple[str, str]
) -> None:
    report = settle_death(lease(stop), started=started, cause="it died", killed=killed)

    assert told(report) == expected
