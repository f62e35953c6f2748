"""The client for programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from tq.v1.cluster_service_pb2 import (
    GetClusterStatusResponse,
    ReplaceNodeResponse,
    VerifyStateResponse,
)
from tq.v1.queue_service_pb2 import (
    DeleteDeadLettersResponse,
    QueueSettings,
    QueueStats,
    RedriveResponse,
)
from tq.v1.task_pb2 import Task, TaskSpec, TaskState
from tq.v1.task_service_pb2 import CancelTaskResponse, ReadLevel
from tq.v1.worker_service_pb2 import (
    ClaimRequest,
    ClaimResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    ListWorkersResponse,
    ReportRequest,
    ReportResponse,
)
from tq_client import errors
from tq_client.async_client import TIMEOUT_S, AsyncClient
from tq_client.calls import Answer
from tq_client.specs import SpecFields

_T = TypeVar("_T")
_LINEARIZABLE = ReadLevel.READ_LEVEL_LINEARIZABLE


class Client:
    """An `AsyncClient` on an event loop in a thread of its own.

    Its methods block, and any thread may call them.     What each method promises is written
    there. Submits of several threads at once share one RPC. ``with`` closes it.
    """

    def __init__(
        self, addresses: str | Iterable[str] | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tq-client", daemon=True
        )
        self._thread.start()
        try:
            self._client = self._run(_made(lambda: AsyncClient(addresses, timeout_s=timeout_s)))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every call in flight, in whichever thread; a second time does nothing."""
        if not self._loop.is_closed():
            self._run(self._client.close())
            self._stop()

    def submit(
        self,
        queue: str,
        task_type: str,
        payload: bytes = b"",
        *,
        timeout_s: float | None = None,
        **fields: Unpack[SpecFields],
    ) -> str:
        """Submit one task and return its id, once it is on the disks of a majority."""
        return self._run(
            self._client.submit(queue, task_type, payload, timeout_s=timeout_s, **fields)
        )

    def submit_many(
        self, specs: Iterable[TaskSpec], *, timeout_s: float | None = None
    ) -> list[str | errors.TqError]:
        """Submit many tasks; return, in their order, the id of each or why it was not created."""
        return self._run(self._client.submit_many(specs, timeout_s=timeout_s))

    def get(
        self,
        task_id: str,
        *,
        omit_payload: bool = False,
        read_level: ReadLevel.ValueType = _LINEARIZABLE,
        timeout_s: float | None = None,
    ) -> Task:
        """Look one task up; NotFoundError where there is none."""
        return self._run(
            self._client.get(
                task_id, omit_payload=omit_payload, read_level=read_level, timeout_s=timeout_s
            )
        )

    def wait(
        self, task_id: str, *, omit_payload: bool = False, timeout_s: float | None = None
    ) -> Task:
        """Wait until a task is terminal and return it; TimeoutError where it is not in time."""
        return self._run(self._client.wait(task_id, omit_payload=omit_payload, timeout_s=timeout_s))

    def cancel(self, task_id: str, *, timeout_s: float | None = None) -> CancelTaskResponse:
        """Cancel a task; a running one is marked and its worker told."""
        return self._run(self._client.cancel(task_id, timeout_s=timeout_s))

    def list_tasks(
        self,
        *,
        queue: str = "",
        states: Sequence[TaskState.ValueType] = (),
        task_type: str = "",
        labels: Mapping[str, str] | None = None,
        page_size: int = 0,
        read_level: ReadLevel.ValueType = _LINEARIZABLE,
    ) -> Iterator[Task]:
        """Go through the tasks that match, newest first."""
        return self._iterate(
            self._client.list_tasks(
                queue=queue,
                states=states,
                task_type=task_type,
                labels=labels,
                page_size=page_size,
                read_level=read_level,
            )
        )

    def queue_stats(
        self,
        queue: str,
        *,
        read_level: ReadLevel.ValueType = _LINEARIZABLE,
        timeout_s: float | None = None,
    ) -> QueueStats:
        """Count a queue's tasks by state; NotFoundError where no task ever named it."""
        return self._run(
            self._client.queue_stats(queue, read_level=read_level, timeout_s=timeout_s)
        )

    def list_queues(
        self, *, read_level: ReadLevel.ValueType = _LINEARIZABLE
    ) -> Iterator[QueueStats]:
        """Go through all queues by name."""
        return self._iterate(self._client.list_queues(read_level=read_level))

    def configure_queue(
        self, queue: str, settings: QueueSettings, *, timeout_s: float | None = None
    ) -> QueueSettings:
        """Replace a queue's settings."""
        return self._run(self._client.configure_queue(queue, settings, timeout_s=timeout_s))

    def dead_letters(
        self,
        *,
        queue: str = "",
        page_size: int = 0,
        read_level: ReadLevel.ValueType = _LINEARIZABLE,
    ) -> Iterator[Task]:
        """Go through the FAILED tasks, newest first, with the history of their attempts."""
        return self._iterate(
            self._client.dead_letters(queue=queue, page_size=page_size, read_level=read_level)
        )

    def redrive(
        self,
        task_ids: Sequence[str] = (),
        *,
        queue: str = "",
        max_tasks: int = 0,
        timeout_s: float | None = None,
    ) -> RedriveResponse:
        """Make dead letters pending again: those named, or the oldest of ``queue``."""
        return self._run(
            self._client.redrive(task_ids, queue=queue, max_tasks=max_tasks, timeout_s=timeout_s)
        )

    def delete_dead_letters(
        self,
        task_ids: Sequence[str] = (),
        *,
        queue: str = "",
        max_tasks: int = 0,
        timeout_s: float | None = None,
    ) -> DeleteDeadLettersResponse:
        """Remove dead letters for good: those named, or the oldest of ``queue``."""
        return self._run(
            self._client.delete_dead_letters(
                task_ids, queue=queue, max_tasks=max_tasks, timeout_s=timeout_s
            )
        )

    def purge_queue(self, queue: str, *, max_tasks: int = 0) -> Iterator[int]:
        """Cancel all of a queue's tasks that wait; yields how many after each slice."""
        return self._iterate(self._client.purge_queue(queue, max_tasks=max_tasks))

    def list_workers(self) -> ListWorkersResponse:
        """List all workers that the leader has heard from in the last 5 minutes, by id."""
        return self._run(self._client.list_workers())

    def cluster_status(self, *, timeout_s: float | None = None) -> GetClusterStatusResponse:
        """Ask a broker how every broker is; needs no leader."""
        return self._run(self._client.cluster_status(timeout_s=timeout_s))

    def transfer_leadership(
        self, target_node_id: str = "", *, timeout_s: float | None = None
    ) -> str:
        """Have the leader hand over, and return the new leader's node id."""
        return self._run(self._client.transfer_leadership(target_node_id, timeout_s=timeout_s))

    def verify_state(
        self, *, start: bool = False, timeout_s: float | None = None
    ) -> VerifyStateResponse:
        """Ask what comparing the brokers' states has found; ``start`` begins a pass over all."""
        return self._run(self._client.verify_state(start=start, timeout_s=timeout_s))

    def replace_node(
        self, node_id: str, *, force: bool = False, timeout_s: float | None = None
    ) -> ReplaceNodeResponse:
        """Have the empty node of that name take the member's place; see docs/membership.md."""
        return self._run(self._client.replace_node(node_id, force=force, timeout_s=timeout_s))

    def claim(
        self, request: ClaimRequest, *, timeout_s: float | None = None
    ) -> Answer[ClaimResponse]:
        """Claim tasks; a lease's deadline counts from the answer's ``sent_at_s``."""
        return self._run(self._client.claim(request, timeout_s=timeout_s))

    def heartbeat(
        self, request: HeartbeatRequest, *, timeout_s: float | None = None
    ) -> Answer[HeartbeatResponse]:
        """Renew leases, each to its full length from the answer's ``sent_at_s``."""
        return self._run(self._client.heartbeat(request, timeout_s=timeout_s))

    def report(self, request: ReportRequest, *, timeout_s: float | None = None) -> ReportResponse:
        """Report how attempts ended; repeating a report is safe."""
        return self._run(self._client.report(request, timeout_s=timeout_s))

    def _run(self, call: Coroutine[Any, Any, _T]) -> _T:
        if self._loop.is_closed():
            call.close()
            raise errors.UnavailableError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C, say: nobody waits for the call any more.
            future.cancel()
            raise

    def _iterate(self, items: AsyncIterator[_T]) -> Iterator[_T]:
        while (item := self._run(_next(items))) is not None:
            yield item

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


async def _next(items: AsyncIterator[_T]) -> _T | None:
    return await anext(items, None)


async def _made(make: Callable[[], _T]) -> _T:
    """Make on the loop what belongs to the loop."""
    return make()
