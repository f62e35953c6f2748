"""Delivers reports: those that come while a call is in flight go into the next call."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable

from tq.v1 import errors_pb2
from tq.v1.worker_service_pb2 import ReportRequest, ReportResult, TaskReport
from tq_client.errors import InternalError, RequestError, TqError, UnsupportedError
from tq_common.backoff import Pauses
from tq_common.limits import REPORTS_MAX
from tq_worker.broker.calls import Broker
from tq_worker.telemetry.events import What
from tq_worker.wire import task_reports

_logger = logging.getLogger(__name__)

BATCH_BYTES = 3 * 1024 * 1024
"""A call carries about this much; a larger result goes alone."""
CALL_S = 10.0
PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 2.0

_Status = ReportResult.Status


Answered = Callable[[TaskReport, ReportResult.Status.ValueType], None]


class Reporter:
    """Repeats every report until it has a definite answer.

    It does not give up when the lease runs out: the work is done, a new leader restarts every
    lease, and if another worker has the task by now, the brokers refuse the old token.
    """

    def __init__(self, *, worker_id: str, broker: Broker, answered: Answered) -> None:
        """``answered`` is called with each report that is settled, and its status."""
        self._worker_id = worker_id
        self._broker = broker
        self._answered = answered
        self._waiting: deque[TaskReport] = deque()
        self._on_the_way = 0
        self._some = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()
        self._alone = 0
        """How many of the waiting reports go in a call of their own: a call with all of them was
        refused.
        """
        self._failing = False

    def add(self, report: TaskReport) -> None:
        """Have a report delivered."""
        self._waiting.append(report)
        self._some.set()
        self._none.clear()

    def backlog(self) -> int:
        """How many reports have not been answered."""
        return len(self._waiting) + self._on_the_way

    async def delivered(self) -> None:
        """Return once nothing waits."""
        await self._none.wait()

    async def run(self) -> None:
        """Deliver until cancelled."""
        pauses = Pauses(PAUSE_FIRST_S, PAUSE_MAX_S, share_min=0.5, draw=random)
        while True:
            await self._some.wait()
            batch = self._take()
            try:
                await self._deliver(batch)
            except asyncio.CancelledError:
                # Count the batch as undelivered: the call may or may not have arrived.
                self._waiting.extendleft(reversed(batch))
                raise
            except RequestError as error:
                self._refused(batch, error)
            except TqError as error:
                if isinstance(error, InternalError | UnsupportedError):
                    self._set_aside(batch)
                else:
                    self._waiting.extendleft(reversed(batch))
                if not self._failing:
                    _logger.warning("reports cannot be delivered", extra={"error": str(error)})
                self._failing = True
                await asyncio.sleep(pauses.next_s())
                continue
            if self._failing:
                _logger.info("reports are delivered again")
            self._failing = False
            pauses.reset()

    def _take(self) -> list[TaskReport]:
        limit = 1 if self._alone else REPORTS_MAX
        batch: list[TaskReport] = []
        batch_bytes = 0
        while self._waiting and len(batch) < limit:
            batch_bytes += self._waiting[0].ByteSize()
            if batch and batch_bytes > BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _deliver(self, batch: list[TaskReport]) -> None:
        self._on_the_way = len(batch)
        try:
            response = await self._broker.report(
                ReportRequest(worker_id=self._worker_id, reports=batch), timeout_s=CALL_S
            )
        finally:
            self._on_the_way = 0
        for report, result in zip(batch, response.results, strict=True):
            if len(batch) > 1 and result.error.reason == errors_pb2.ERROR_REASON_CALL_FULL:
                self.add(report)  # nothing is wrong with it: there was no room beside the others
            else:
                self._judge(report, result)
        self._alone = max(0, self._alone - len(batch))
        self._settle_events()

    def _judge(self, report: TaskReport, result: ReportResult) -> None:
        match result.status:
            case (
                _Status.STATUS_RECORDED | _Status.STATUS_ALREADY_RECORDED | _Status.STATUS_CANCELLED
            ):
                pass
            case _Status.STATUS_LEASE_LOST | _Status.STATUS_NOT_FOUND:
                _logger.warning("report came too late", extra=_facts(report, result))
            case _Status.STATUS_REFUSED if report.HasField("complete"):
                self._unfit(report, result.error.message)
                return
            case _:
                _logger.error(
                    "report was refused",
                    extra={**_facts(report, result), "error": result.error.message},
                )
        self._answered(report, result.status)

    def _unfit(self, report: TaskReport, why: str) -> None:
        """Report a completion as failed if the brokers refuse its result."""
        error = f"the result does not fit: {why}"
        _logger.error(
            What.FAILED.value,
            extra={"task_id": report.task_id, "token": report.token, "error": error},
        )
        self.add(task_reports.failed(report.task_id, report.token, error, permanent=True))

    def _set_aside(self, batch: list[TaskReport]) -> None:
        """Assume that one report of the batch is the cause: the others must not wait for it.

        It brings out a broker's fault, or has a field that the brokers do not support yet.
        Each is then sent alone, and one that fails alone goes behind all waiting reports.
        """
        if len(batch) > 1:
            self._waiting.extendleft(reversed(batch))
            self._alone = len(batch)
        else:
            self._alone = max(0, self._alone - 1)
            self._waiting.extend(batch)

    def _refused(self, batch: list[TaskReport], error: RequestError) -> None:
        if len(batch) > 1:
            # One of them is at fault: send each alone to find it.
            self._waiting.extendleft(reversed(batch))
            self._alone = len(batch)
            return
        self._alone = max(0, self._alone - 1)
        (report,) = batch
        if report.HasField("complete"):
            self._unfit(report, str(error))
        else:
            _logger.error(
                "report was refused", extra={"task_id": report.task_id, "error": str(error)}
            )
            self._answered(report, _Status.STATUS_REFUSED)
        self._settle_events()

    def _settle_events(self) -> None:
        if not self._waiting:
            self._some.clear()
            self._none.set()


def _facts(report: TaskReport, result: ReportResult) -> dict[str, object]:
    return {
        "task_id": report.task_id,
        "token": report.token,
        "status": _Status.Name(result.status).removeprefix("STATUS_"),
    }
