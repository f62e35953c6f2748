"""Queues and their dead letters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from tq.v1.errors_pb2 import ItemError
from tq.v1.queue_service_pb2 import (
    ConfigureQueueRequest,
    DeleteDeadLettersRequest,
    DeleteQueueRequest,
    GetQueueStatsRequest,
    ListDeadLettersRequest,
    ListQueuesRequest,
    PurgeQueueRequest,
    RedriveRequest,
)
from tq.v1.queue_service_pb2 import (
    DeadLetterFilter as DeadLetterFilterMessage,
)
from tq_client import errors, methods
from tq_client.dead_letters import DeadLetterFilter
from tq_client.enums import ReadLevel
from tq_client.errors import Reason, TqError
from tq_client.model import Deletion, QueueSettings, QueueStats, Redrive, Task
from tq_client.services.base import Service, copy, level


class QueueCalls(Service):
    """Calls of QueueService."""

    async def queue_stats(
        self,
        queue: str,
        *,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
        timeout_s: float | None = None,
    ) -> QueueStats:
        """Count a queue's tasks by state; raises NotFoundError if the queue does not exist."""
        request = GetQueueStatsRequest(queue=queue, read_level=level(read_level))
        answer = await self._caller.call(
            methods.GET_QUEUE_STATS, request, timeout_s=self._within(timeout_s)
        )
        return QueueStats.of(answer.reply.stats)

    async def list_queues(
        self, *, read_level: ReadLevel = ReadLevel.LINEARIZABLE
    ) -> AsyncIterator[QueueStats]:
        """Iterate over all queues by name; each call fetches a page."""
        request = ListQueuesRequest(read_level=level(read_level))
        while True:
            answer = await self._caller.call(
                methods.LIST_QUEUES, copy(request), timeout_s=self._timeout_s
            )
            for stats in answer.reply.queues:
                yield QueueStats.of(stats)
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return

    async def configure_queue(
        self,
        queue: str,
        settings: QueueSettings,
        *,
        fields: Sequence[str] = (),
        must_exist: bool = False,
        etag: str = "",
        timeout_s: float | None = None,
    ) -> QueueSettings:
        """Set a queue's settings; raises OutcomeUnknownError if the answer to the call is lost.

        ``fields`` names the settings to change ("ordering", "aging", "paused"); if empty, all are
        set. A queue that does not exist is created, but with ``must_exist`` raises NotFoundError.
        With the ``etag`` of settings that were read, raises ConflictError if they have changed.
        """
        request = ConfigureQueueRequest(
            queue=queue, settings=settings.message, must_exist=must_exist, etag=etag
        )
        if fields:
            request.update_mask.paths.extend(fields)
        answer = await self._caller.call(
            methods.CONFIGURE_QUEUE, request, timeout_s=self._within(timeout_s)
        )
        return QueueSettings.of(answer.reply.settings)

    async def delete_queue(self, queue: str, *, timeout_s: float | None = None) -> None:
        """Remove an empty queue; raises ConflictError if it holds a task in any state."""
        await self._caller.call(
            methods.DELETE_QUEUE, DeleteQueueRequest(queue=queue), timeout_s=self._within(timeout_s)
        )

    async def dead_letters(
        self,
        *,
        queue: str = "",
        filter: DeadLetterFilter | None = None,  # noqa: A002  # the API's word
        page_size: int = 0,
        read_level: ReadLevel = ReadLevel.LINEARIZABLE,
    ) -> AsyncIterator[Task]:
        """Iterate over the FAILED tasks, newest first, with the history of their attempts."""
        request = ListDeadLettersRequest(
            queue=queue,
            filter=_message(filter),
            page_size=page_size,
            read_level=level(read_level),
        )
        while True:
            answer = await self._caller.call(
                methods.LIST_DEAD_LETTERS, copy(request), timeout_s=self._timeout_s
            )
            for task in answer.reply.tasks:
                yield Task.of(task)
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return

    async def redrive(
        self,
        task_ids: Sequence[str] = (),
        *,
        queue: str = "",
        max_tasks: int = 0,
        page_token: str = "",
        force: bool = False,
        filter: DeadLetterFilter | None = None,  # noqa: A002  # the API's word
        dry_run: bool = False,
        timeout_s: float | None = None,
    ) -> Redrive:
        """Make dead letters pending again: those of ``task_ids``, or the oldest of ``queue``.

        Tasks that failed through one of them wait for it again; they are not redriven themselves.
        A task is skipped if others have started because it failed; with ``force`` it is redriven,
        and those are left as they are. ``page_token`` is the next_page_token of the previous reply.
        With ``queue``, ``filter`` says which are meant, and ``dry_run`` only counts them.
        `redrive_queue` makes all calls.
        """
        request = RedriveRequest(
            task_ids=task_ids,
            queue=queue,
            max_tasks=max_tasks,
            page_token=page_token,
            force=force,
            filter=_message(filter),
            dry_run=dry_run,
        )
        answer = await self._caller.call(
            methods.REDRIVE, request, timeout_s=self._within(timeout_s)
        )
        reply = answer.reply
        return Redrive(
            redriven=reply.redriven,
            skipped_task_ids=tuple(reply.skipped_task_ids),
            skipped=_skipped(reply.skipped_task_ids, reply.skipped),
            remaining_task_ids=tuple(reply.remaining_task_ids),
            next_page_token=reply.next_page_token,
            message=reply,
        )

    async def delete_dead_letters(
        self,
        task_ids: Sequence[str] = (),
        *,
        queue: str = "",
        max_tasks: int = 0,
        page_token: str = "",
        filter: DeadLetterFilter | None = None,  # noqa: A002  # the API's word
        dry_run: bool = False,
        timeout_s: float | None = None,
    ) -> Deletion:
        """Delete dead letters for good: those of ``task_ids``, or the oldest of ``queue``.

        A task that others may still need is skipped. ``page_token`` is the next_page_token of the
        previous reply. With ``queue``, ``filter`` says which are meant, and ``dry_run`` only
        counts them. `clear_dead_letters` makes all calls.
        """
        request = DeleteDeadLettersRequest(
            task_ids=task_ids,
            queue=queue,
            max_tasks=max_tasks,
            page_token=page_token,
            filter=_message(filter),
            dry_run=dry_run,
        )
        answer = await self._caller.call(
            methods.DELETE_DEAD_LETTERS, request, timeout_s=self._within(timeout_s)
        )
        reply = answer.reply
        return Deletion(
            deleted=reply.deleted,
            skipped_task_ids=tuple(reply.skipped_task_ids),
            skipped=_skipped(reply.skipped_task_ids, reply.skipped),
            remaining_task_ids=tuple(reply.remaining_task_ids),
            next_page_token=reply.next_page_token,
            message=reply,
        )

    async def redrive_queue(
        self,
        queue: str,
        *,
        filter: DeadLetterFilter | None = None,  # noqa: A002  # the API's word
        max_tasks: int = 0,
        force: bool = False,
        dry_run: bool = False,
    ) -> AsyncIterator[int]:
        """Make all of a queue's dead letters pending again; yields the number in each slice.

        With ``filter`` those that it takes; with ``dry_run`` it only counts them.

        Tasks that become dead letters after it began, even again, are left alone. So are those that
        failed only because another task did, and, without ``force``, those of which others have
        started because they failed.
        """
        page_token = ""
        while True:
            reply = await self.redrive(
                queue=queue,
                max_tasks=max_tasks,
                page_token=page_token,
                force=force,
                filter=filter,
                dry_run=dry_run,
            )
            yield reply.redriven
            page_token = reply.next_page_token
            if not page_token:
                return

    async def clear_dead_letters(
        self,
        queue: str,
        *,
        filter: DeadLetterFilter | None = None,  # noqa: A002  # the API's word
        max_tasks: int = 0,
        dry_run: bool = False,
    ) -> AsyncIterator[int]:
        """Delete all of a queue's dead letters for good; yields the number in each slice.

        With ``filter`` those that it takes; with ``dry_run`` it only counts them.

        Tasks that become dead letters after it began stay, and those that others may still need.
        """
        page_token = ""
        while True:
            reply = await self.delete_dead_letters(
                queue=queue,
                max_tasks=max_tasks,
                page_token=page_token,
                filter=filter,
                dry_run=dry_run,
            )
            yield reply.deleted
            page_token = reply.next_page_token
            if not page_token:
                return

    async def purge_queue(self, queue: str, *, max_tasks: int = 0) -> AsyncIterator[int]:
        """Cancel all of a queue's waiting tasks; yields their number.

        Once the number is there, none of them starts any more; they become cancelled one after the
        other (`QueueStats.purging`). Tasks submitted after the purge began stay, and running tasks
        are left to finish, and to be retried.

        With ``max_tasks``, or while brokers of version 4 or older are in the cluster, it purges in
        slices of up to so many tasks, yields the number in each, and holds from its last one on.
        """
        if not max_tasks:
            request = PurgeQueueRequest(queue=queue, at_once=True)
            try:
                answer = await self._caller.call(
                    methods.PURGE_QUEUE, request, timeout_s=self._timeout_s
                )
            except errors.UnsupportedError:
                pass
            else:
                yield answer.reply.cancelled
                return
        request = PurgeQueueRequest(queue=queue, max_tasks=max_tasks)
        while True:
            answer = await self._caller.call(
                methods.PURGE_QUEUE, copy(request), timeout_s=self._timeout_s
            )
            yield answer.reply.cancelled
            request.page_token = answer.reply.next_page_token
            if not request.page_token:
                return

    async def stop_purge(self, queue: str, *, timeout_s: float | None = None) -> int:
        """End a purge that is under way; returns how many tasks it had not cancelled yet.

        They are as if it had never begun. 0 if none is under way. Raises UnsupportedError while
        brokers of version 4 or older are in the cluster.
        """
        request = PurgeQueueRequest(queue=queue, stop=True)
        answer = await self._caller.call(
            methods.PURGE_QUEUE, request, timeout_s=self._within(timeout_s)
        )
        return answer.reply.spared


_NO_REASON = "it is no dead letter, or there is no such task"


def _message(chosen: DeadLetterFilter | None) -> DeadLetterFilterMessage | None:
    return None if chosen is None else chosen.message


def _skipped(task_ids: Sequence[str], reasons: Sequence[ItemError]) -> dict[str, TqError]:
    """Pair the tasks that were skipped with the reasons, which older brokers do not give."""
    found = map(errors.of_item, reasons)
    return {
        task_id: next(found, None) or errors.of_reason(Reason.INVALID_ARGUMENT, _NO_REASON)
        for task_id in task_ids
    }
