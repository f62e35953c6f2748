"""How reports reach the broker."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.patience import PATIENCE_S
from tq.v1 import errors_pb2
from tq.v1.worker_service_pb2 import (
    Completion,
    ReportRequest,
    ReportResponse,
    ReportResult,
    TaskReport,
)
from tq_client.errors import InternalError, Reason, TqError, UnsupportedError
from tq_worker.broker.reporter import Reporter


class Stumbling:
    """Takes reports, but fails every call that carries one task's."""

    def __init__(self, error: TqError) -> None:
        self.taken: list[str] = []
        self._error = error

    async def report(self, request: ReportRequest, *, timeout_s: float) -> ReportResponse:
        await asyncio.sleep(0)
        ids = [report.task_id for report in request.reports]
        if "bad" in ids:
            raise self._error
        self.taken += ids
        recorded = ReportResult.STATUS_RECORDED
        return ReportResponse(results=[ReportResult(task_id=each, status=recorded) for each in ids])


def reporter_of(broker: object, answered: list[int]) -> Reporter:
    """A reporter that writes down the token of each report that was answered."""
    return Reporter(
        worker_id="w",
        broker=broker,  # type: ignore[arg-type]  # reports are all it is asked for
        answered=lambda report, _: answered.append(report.token),
    )


@pytest.mark.parametrize(
    "error",
    [
        InternalError("a fault of the broker", reason=Reason.INTERNAL),
        UnsupportedError("field 57 is not known", reason=Reason.UNSUPPORTED),
    ],
    ids=lambda error: str(error.reason),
)
async def test_a_report_that_the_broker_stumbles_over_does_not_hold_up_the_others(
    error: TqError,
) -> None:
    """And it is kept, complete as it is: a broker of a later version may take it."""
    broker = Stumbling(error)
    answered: list[int] = []
    reporter = reporter_of(broker, answered)
    names = ["a", "bad", "b", "c"]
    for token, name in enumerate(names):
        reporter.add(TaskReport(task_id=name, token=token, complete=Completion()))

    delivering = asyncio.create_task(reporter.run())
    async with asyncio.timeout(PATIENCE_S):
        while len(answered) < 3:  # noqa: ASYNC110 - nothing signals a plain list
            await asyncio.sleep(0.01)
    delivering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await delivering

    assert broker.taken == ["a", "b", "c"]
    assert reporter.backlog() == 1


class Full:
    """Takes two reports a call, and says of the others that there was no room for them."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    async def report(self, request: ReportRequest, *, timeout_s: float) -> ReportResponse:
        await asyncio.sleep(0)
        self.calls.append([report.task_id for report in request.reports])
        response = ReportResponse()
        for place, report in enumerate(request.reports):
            result = response.results.add(
                task_id=report.task_id, status=ReportResult.STATUS_RECORDED
            )
            if place >= 2:
                result.status = ReportResult.STATUS_REFUSED
                result.error.reason = errors_pb2.ERROR_REASON_CALL_FULL
        return response


async def test_a_completion_that_found_no_room_is_reported_again_and_is_no_failure() -> None:
    broker = Full()
    answered: list[int] = []
    reporter = reporter_of(broker, answered)
    for token, name in enumerate(["a", "b", "c", "d", "e"]):
        reporter.add(TaskReport(task_id=name, token=token, complete=Completion()))

    delivering = asyncio.create_task(reporter.run())
    async with asyncio.timeout(PATIENCE_S):
        await reporter.delivered()
    delivering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await delivering

    assert broker.calls == [["a", "b", "c", "d", "e"], ["c", "d", "e"], ["e"]]
    assert sorted(answered) == [0, 1, 2, 3, 4]
