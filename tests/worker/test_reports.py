"""How reports reach the broker."""

from __future__ import annotations

import asyncio
import contextlib

from tq.v1.worker_service_pb2 import ReportRequest, ReportResponse, ReportResult, TaskReport
from tq_client.errors import InternalError, Reason
from tq_worker.reports import Reporter


class Stumbling:
    """Takes reports, but fails every call that carries one task's."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def report(self, request: ReportRequest, *, timeout_s: float) -> ReportResponse:
        await asyncio.sleep(0)
        ids = [report.task_id for report in request.reports]
        if "bad" in ids:
            raise InternalError("a fault of the broker", reason=Reason.INTERNAL)
        self.taken += ids
        recorded = ReportResult.STATUS_RECORDED
        return ReportResponse(results=[ReportResult(task_id=each, status=recorded) for each in ids])


async def test_a_report_that_the_broker_stumbles_over_does_not_hold_up_the_others() -> None:
    broker = Stumbling()
    answered: list[int] = []
    reporter = Reporter(worker_id="w", broker=broker, answered=answered.append)  # type: ignore[arg-type]  # reports are all it is asked for
    names = ["a", "bad", "b", "c"]
    for token, name in enumerate(names):
        reporter.add(TaskReport(task_id=name, token=token))

    delivering = asyncio.create_task(reporter.run())
    async with asyncio.timeout(10):
        while len(answered) < 3:  # noqa: ASYNC110 - nothing signals a plain list
            await asyncio.sleep(0.01)
    delivering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await delivering

    assert broker.taken == ["a", "b", "c"]
    assert reporter.backlog() == 1
