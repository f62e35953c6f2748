"""Combines concurrent submits: one call costs the brokers as much as a hundred tasks in it."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Protocol

from tq.v1.task_pb2 import TaskSpec
from tq.v1.task_service_pb2 import SubmitRequest, SubmitResponse, SubmittedTask
from tq_client import errors, offenders
from tq_client.errors import Reason
from tq_common.limits import CALL_DEPENDENCIES_MAX, SUBMIT_TASKS_MAX

BATCH_BYTES_MAX = 1 << 20
CALLS_MAX = 4
"""Full calls in flight at once; a call that is not full goes only when none is in flight."""


class Send(Protocol):
    """Makes one Submit call, and repeats it if necessary, for at most ``timeout_s``."""

    def __call__(
        self, request: SubmitRequest, timeout_s: float
    ) -> Coroutine[Any, Any, SubmitResponse]: ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """One submit that waits for its answer."""

    spec: TaskSpec
    spec_bytes: int
    deadline_s: float
    answer: asyncio.Future[SubmittedTask]
    request_id: str = ""
    """The request_id of the call that carries it; empty until that call is made."""
    call_deadline_s: float = 0.0
    """The deadline of that call."""


class Coalescer:
    """Gathers submits while a call is in flight and sends them as one call.

    A call's tasks and request_id are fixed when it is first sent, so that a repeated call is the
    same call. If it is refused for one of its tasks, the others go in new calls (`offenders`).
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._again: deque[Sequence[_Waiting]] = deque()
        """The calls to make without the task for which a call was refused."""
        self._calls: set[asyncio.Task[SubmitResponse]] = set()
        self._flush_due = False
        self._closed = False

    async def submit(self, spec: TaskSpec, timeout_s: float) -> SubmittedTask:
        """Submit one task, in one call with other concurrent submits."""
        if self._closed:
            raise errors.UnavailableError("the client is closed")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(spec, spec.ByteSize(), loop.time() + timeout_s, loop.create_future())
        self._waiting.append(waiting)
        self._waiting_bytes += waiting.spec_bytes
        if not self._flush_due:
            # Not at once, so that the call carries the other submits of this turn of the loop.
            self._flush_due = True
            loop.call_soon(self._flush)
        timer = loop.call_at(waiting.deadline_s, _expire, waiting)
        try:
            return await waiting.answer
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Fail the unsent submits; wait for the calls in flight, which the owner has ended."""
        self._closed = True
        for waiting in (*self._waiting, *chain.from_iterable(self._again)):
            _fail(
                waiting, errors.UnavailableError("the client was closed before the task was sent")
            )
        self._waiting.clear()
        self._again.clear()
        if self._calls:
            await asyncio.wait(self._calls)

    def _flush(self) -> None:
        self._flush_due = False
        while self._again and len(self._calls) < CALLS_MAX:
            batch = [waiting for waiting in self._again.popleft() if not waiting.answer.done()]
            if batch:
                self._start(batch, again=True)
        while self._waiting and (
            not self._calls or (len(self._calls) < CALLS_MAX and self._is_full())
        ):
            batch = self._take()
            if batch:
                self._start(batch)

    def _is_full(self) -> bool:
        return len(self._waiting) >= SUBMIT_TASKS_MAX or self._waiting_bytes >= BATCH_BYTES_MAX

    def _take(self) -> list[_Waiting]:
        """Take what one call may carry: at least one task, however large."""
        batch: list[_Waiting] = []
        batch_bytes = batch_dependencies = 0
        while self._waiting and len(batch) < SUBMIT_TASKS_MAX:
            waiting = self._waiting[0]
            dependencies = len(waiting.spec.depends_on)
            if batch and (
                batch_bytes + waiting.spec_bytes > BATCH_BYTES_MAX
                or batch_dependencies + dependencies > CALL_DEPENDENCIES_MAX
            ):
                break
            self._waiting.popleft()
            self._waiting_bytes -= waiting.spec_bytes
            # Skip those that were cancelled or timed out while they waited.
            if not waiting.answer.done():
                batch.append(waiting)
                batch_bytes += waiting.spec_bytes
                batch_dependencies += dependencies
        return batch

    def _start(self, batch: list[_Waiting], *, again: bool = False) -> None:
        request_id = uuid.uuid4().hex
        deadline_s = max(waiting.deadline_s for waiting in batch)
        for waiting in batch:
            waiting.request_id, waiting.call_deadline_s = request_id, deadline_s
        request = SubmitRequest(request_id=request_id, tasks=[waiting.spec for waiting in batch])
        timeout_s = deadline_s - asyncio.get_running_loop().time()
        call = asyncio.create_task(self._send(request, timeout_s), name="tq-submit")
        self._calls.add(call)
        call.add_done_callback(partial(self._answer, batch, again))

    def _answer(
        self, batch: list[_Waiting], again: bool, call: asyncio.Task[SubmitResponse]
    ) -> None:
        self._calls.discard(call)
        self._settle(batch, again, call)
        self._flush()

    def _settle(
        self, batch: list[_Waiting], again: bool, call: asyncio.Task[SubmitResponse]
    ) -> None:
        failure: BaseException | None
        if call.cancelled():
            failure = errors.of_reason(Reason.OUTCOME_UNKNOWN, "the call was cancelled")
        else:
            failure = call.exception()
        if failure is None and len(call.result().results) != len(batch):
            failure = errors.of_reason(
                Reason.INTERNAL, f"{len(call.result().results)} results for {len(batch)} tasks"
            )
        if isinstance(failure, errors.TqError) and self._send_again(batch, again, failure):
            return
        if failure is not None:
            for waiting in batch:
                # A copy for each: an exception that is raised twice gathers both tracebacks.
                _fail(waiting, copy.copy(failure))
            return
        for waiting, result in zip(batch, call.result().results, strict=True):
            if result.WhichOneof("result") == "error":
                _fail(waiting, errors.of_item(result.error))
            elif not waiting.answer.done():
                waiting.answer.set_result(result.task)

    def _send_again(self, batch: list[_Waiting], again: bool, error: errors.TqError) -> bool:
        """Fail the task for which a call was refused, and queue the others; False: all failed."""
        blame = offenders.find([waiting.spec for waiting in batch], error, again=again)
        if blame is None or self._closed:
            return False
        if blame.offender is not None:
            _fail(batch[blame.offender], offenders.own(error, blame.offender))
        for positions in blame.again:
            others = [batch[at] for at in positions]
            for waiting in others:
                waiting.request_id = ""  # as if it had never been sent: nothing was applied
            self._again.append(others)
        return True


def _expire(waiting: _Waiting) -> None:
    if not waiting.request_id:
        _fail(waiting, errors.of_reason(Reason.NO_LEADER, "not sent before its deadline"))
    elif waiting.call_deadline_s > waiting.deadline_s:
        # The call goes on for others. If its deadline is the same, its own error says more.
        _fail(
            waiting,
            errors.of_reason(
                Reason.OUTCOME_UNKNOWN,
                "no answer before its deadline",
                metadata={"request_id": waiting.request_id},
            ),
        )


def _fail(waiting: _Waiting, error: BaseException) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
