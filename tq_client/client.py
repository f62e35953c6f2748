"""The client for programs without an event loop."""

from __future__ import annotations

import warnings
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from tq.v1.cluster_service_pb2 import (
    GetClusterStatusResponse,
    ReplaceNodeResponse,
    VerifyStateResponse,
)
from tq.v1.queue_service_pb2 import DeleteDeadLettersResponse, RedriveResponse
from tq.v1.task_pb2 import TaskSpec
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
from tq_client.connections import FollowLeader
from tq_client.engine import Engine
from tq_client.enums import ReadLevel, TaskState
from tq_client.model import Cancellation, QueueSettings, QueueStats, Task
from tq_client.specs import SpecFields
from tq_process.addresses import listed

_T = TypeVar("_T")


class Client:
    """An `AsyncClient` on an event loop in a thread of its own.

    Its methods block, for little longer than their time limit at most, and any thread may call
    them. What each method promises is written there. Submits of several threads at once share one
    RPC. ``with`` closes it.

    A process that has one may fork, and both may go on with it: its calls in flight are made again
    in the parent.
    """

    def __init__(
        self,
        addresses: str | Iterable[str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        follow_leader: FollowLeader = "auto",
    ) -> None:
        if addresses is not None:
            addresses = listed(addresses)
        self._timeout_s = timeout_s
        self._engine = Engine(
            partial(AsyncClient, addresses, timeout_s=timeout_s, follow_leader=follow_leader)
        )

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)  # absent where making it failed
        if engine is not None and engine.abandon():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

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
        self._engine.close()

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
            lambda client: client.submit(queue, task_type, payload, timeout_s=timeout_s, **fields),
            timeout_s,
        )

    def submit_many(
        self, specs: Iterable[TaskSpec], *, timeout_s: float | None = None
    ) -> list[str | errors.TqError]:
        """Submit many tasks; return, in their order, the id of each or why it was not created."""
        return self._run(lambda client: client.submit_many(specs, timeout_s=timeout_s), timeout_s)

    def get(
        self,
        task_id: str,
        *,
        omit_payload: bool = False,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
        timeout_s: float | None = None,
    ) -> Task:
        """Look one task up; NotFoundError where there is none."""
        return self._run(
            lambda client: client.get(
                task_id, omit_payload=omit_payload, read_level=read_level, timeout_s=timeout_s
            ),
            timeout_s,
        )

    def wait(
        self, task_id: str, *, omit_payload: bool = False, timeout_s: float | None = None
    ) -> Task:
        """Wait until a task is terminal and return it; TimeoutError where it is not in time."""
        return self._run(
            lambda client: client.wait(task_id, omit_payload=omit_payload, timeout_s=timeout_s),
            timeout_s,
        )

    def cancel(self, task_id: str, *, timeout_s: float | None = None) -> Cancellation:
        """Cancel a task; a running one is marked and its worker told."""
        return self._run(lambda client: client.cancel(task_id, timeout_s=timeout_s), timeout_s)

    def list_tasks(
        self,
        *,
        queue: str = "",
        states: Sequence[TaskState] = (),
        task_type: str = "",
        labels: Mapping[str, str] | None = None,
        page_size: int = 0,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
    ) -> Iterator[Task]:
        """Go through the tasks that match, newest first."""
        return self._iterate(
            lambda client: client.list_tasks(
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
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
        timeout_s: float | None = None,
    ) -> QueueStats:
        """Count a queue's tasks by state; NotFoundError where no task ever named it."""
        return self._run(
            lambda client: client.queue_stats(queue, read_level=read_level, timeout_s=timeout_s),
            timeout_s,
        )

    def list_queues(
        self, *, read_level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> Iterator[QueueStats]:
        """Go through all queues by name."""
        return self._iterate(lambda client: client.list_queues(read_level=read_level))

    def configure_queue(
        self,
        queue: str,
        settings: QueueSettings,
        *,
        fields: Sequence[str] = (),
        must_exist: bool = False,
        etag: str = "",
        timeout_s: float | None = None,
    ) -> QueueSettings:
        """Set a queue's settings: those of ``fields``, or all; `AsyncClient` tells more."""
        return self._run(
            lambda client: client.configure_queue(
                queue,
                settings,
                fields=fields,
                must_exist=must_exist,
                etag=etag,
                timeout_s=timeout_s,
            ),
            timeout_s,
        )

    def delete_queue(self, queue: str, *, timeout_s: float | None = None) -> None:
        """Remove a queue that holds no task in any state; ConflictError if it does."""
        self._run(lambda client: client.delete_queue(queue, timeout_s=timeout_s), timeout_s)

    def dead_letters(
        self,
        *,
        queue: str = "",
        page_size: int = 0,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
    ) -> Iterator[Task]:
        """Go through the FAILED tasks, newest first, with the history of their attempts."""
        return self._iterate(
            lambda client: client.dead_letters(
                queue=queue, page_size=page_size, read_level=read_level
            )
        )

    def redrive(
        self,
        task_ids: Sequence[str] = (),
        *,
        queue: str = "",
        max_tasks: int = 0,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> RedriveResponse:
        """Make dead letters pending again: those named, or the oldest of ``queue``."""
        return self._run(
            lambda client: client.redrive(
                task_ids,
                queue=queue,
                max_tasks=max_tasks,
                page_token=page_token,
                timeout_s=timeout_s,
            ),
            timeout_s,
        )

    def delete_dead_letters(
        self,
        task_ids: Sequence[str] = (),
        *,
        queue: str = "",
        max_tasks: int = 0,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> DeleteDeadLettersResponse:
        """Remove dead letters for good: those named, or the oldest of ``queue``."""
        return self._run(
            lambda client: client.delete_dead_letters(
                task_ids,
                queue=queue,
                max_tasks=max_tasks,
                page_token=page_token,
                timeout_s=timeout_s,
            ),
            timeout_s,
        )

    def redrive_queue(self, queue: str, *, max_tasks: int = 0) -> Iterator[int]:
        """Make all of a queue's dead letters pending again; yields how many after each slice."""
        return self._iterate(lambda client: client.redrive_queue(queue, max_tasks=max_tasks))

    def clear_dead_letters(self, queue: str, *, max_tasks: int = 0) -> Iterator[int]:
        """Remove all of a queue's dead letters for good; yields how many after each slice."""
        return self._iterate(lambda client: client.clear_dead_letters(queue, max_tasks=max_tasks))

    def purge_queue(self, queue: str, *, max_tasks: int = 0) -> Iterator[int]:
        """Cancel all of a queue's tasks that wait; yields how many after each slice."""
        return self._iterate(lambda client: client.purge_queue(queue, max_tasks=max_tasks))

    def list_workers(self) -> ListWorkersResponse:
        """List all workers that the leader has heard from in the last 5 minutes, by id."""
        return self._run(lambda client: client.list_workers())

    def cluster_status(self, *, timeout_s: float | None = None) -> GetClusterStatusResponse:
        """Ask a broker how every broker is; needs no leader."""
        return self._run(lambda client: client.cluster_status(timeout_s=timeout_s), timeout_s)

    def transfer_leadership(
        self, target_node_id: str = "", *, timeout_s: float | None = None
    ) -> str:
        """Have the leader hand over, and return the new leader's node id."""
        return self._run(
            lambda client: client.transfer_leadership(target_node_id, timeout_s=timeout_s),
            timeout_s,
        )

    def verify_state(
        self, *, start: bool = False, timeout_s: float | None = None
    ) -> VerifyStateResponse:
        """Ask what comparing the brokers' states has found; ``start`` begins a pass over all."""
        return self._run(
            lambda client: client.verify_state(start=start, timeout_s=timeout_s), timeout_s
        )

    def replace_node(
        self, node_id: str, *, force: bool = False, timeout_s: float | None = None
    ) -> ReplaceNodeResponse:
        """Have the empty node of that name take the member's place; see docs/membership.md."""
        return self._run(
            lambda client: client.replace_node(node_id, force=force, timeout_s=timeout_s), timeout_s
        )

    def claim(
        self, request: ClaimRequest, *, timeout_s: float | None = None
    ) -> Answer[ClaimResponse]:
        """Claim tasks; a lease's deadline counts from the answer's ``sent_at_s``."""
        return self._run(
            lambda client: client.claim(request, timeout_s=timeout_s),
            request.wait.ToTimedelta().total_seconds() + (timeout_s or self._timeout_s),
        )

    def heartbeat(
        self, request: HeartbeatRequest, *, timeout_s: float | None = None
    ) -> Answer[HeartbeatResponse]:
        """Renew leases, each to its full length from the answer's ``sent_at_s``."""
        return self._run(lambda client: client.heartbeat(request, timeout_s=timeout_s), timeout_s)

    def report(self, request: ReportRequest, *, timeout_s: float | None = None) -> ReportResponse:
        """Report how attempts ended; repeating a report is safe."""
        return self._run(lambda client: client.report(request, timeout_s=timeout_s), timeout_s)

    def _run(
        self,
        call: Callable[[AsyncClient], Coroutine[Any, Any, _T]],
        timeout_s: float | None = None,
    ) -> _T:
        return self._engine.run(call, self._timeout_s if timeout_s is None else timeout_s)

    def _iterate(self, items: Callable[[AsyncClient], AsyncIterator[_T]]) -> Iterator[_T]:
        going: list[AsyncIterator[_T]] = []

        async def following(client: AsyncClient) -> _T | None:
            if not going:
                going.append(items(client))
            return await anext(going[0], None)

        while (item := self._run(following)) is not None:
            yield item
