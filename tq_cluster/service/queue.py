"""tq.v1.QueueService."""

from __future__ import annotations

from collections.abc import Sequence

from tq.v1 import queue_service_pb2 as pb
from tq_cluster.core.model.operations import (
    ConfigureQueue,
    DeleteDeadLetters,
    DeleteQueue,
    PurgeQueue,
    Redrive,
)
from tq_cluster.core.reads import listings, queries
from tq_cluster.service.backend import Leading
from tq_cluster.service.call import Call, Method, Place
from tq_cluster.service.reads import Reads, reply_of


class QueueServicer:
    """Queues and the dead letters."""

    name = "tq.v1.QueueService"

    def __init__(self, *, leading: Leading, reads: Reads) -> None:
        self._leading = leading
        self._reads = reads

    def methods(self) -> Sequence[Method]:
        """Return the methods of this service."""
        return (
            Method(
                name="GetQueueStats",
                request=pb.GetQueueStatsRequest,
                handle=self.get_queue_stats,
                place=Place.BY_READ_LEVEL,
            ),
            Method(
                name="ListQueues",
                request=pb.ListQueuesRequest,
                handle=self.list_queues,
                place=Place.BY_READ_LEVEL,
            ),
            Method(
                name="ConfigureQueue",
                request=pb.ConfigureQueueRequest,
                handle=self.configure_queue,
            ),
            Method(
                name="DeleteQueue",
                request=pb.DeleteQueueRequest,
                handle=self.delete_queue,
            ),
            Method(
                name="ListDeadLetters",
                request=pb.ListDeadLettersRequest,
                handle=self.list_dead_letters,
                place=Place.BY_READ_LEVEL,
            ),
            Method(
                name="Redrive",
                request=pb.RedriveRequest,
                handle=self.redrive,
            ),
            Method(
                name="DeleteDeadLetters",
                request=pb.DeleteDeadLettersRequest,
                handle=self.delete_dead_letters,
            ),
            Method(
                name="PurgeQueue",
                request=pb.PurgeQueueRequest,
                handle=self.purge_queue,
            ),
        )

    async def get_queue_stats(
        self, request: pb.GetQueueStatsRequest, call: Call
    ) -> pb.GetQueueStatsResponse:
        reply: pb.GetQueueStatsResponse = await self._reads.answer(
            queries.queue_stats, request, call
        )
        return reply

    async def list_queues(self, request: pb.ListQueuesRequest, call: Call) -> pb.ListQueuesResponse:
        reply: pb.ListQueuesResponse = await self._reads.answer(listings.list_queues, request, call)
        return reply

    async def configure_queue(
        self, request: pb.ConfigureQueueRequest, call: Call
    ) -> pb.ConfigureQueueResponse:
        operation = ConfigureQueue(request=request, caller=call.caller)
        reply: pb.ConfigureQueueResponse = reply_of(await self._leading.submit(operation))
        return reply

    async def delete_queue(
        self, request: pb.DeleteQueueRequest, call: Call
    ) -> pb.DeleteQueueResponse:
        operation = DeleteQueue(request=request, caller=call.caller)
        reply: pb.DeleteQueueResponse = reply_of(await self._leading.submit(operation))
        return reply

    async def list_dead_letters(
        self, request: pb.ListDeadLettersRequest, call: Call
    ) -> pb.ListDeadLettersResponse:
        reply: pb.ListDeadLettersResponse = await self._reads.answer(
            listings.list_dead_letters, request, call
        )
        return reply

    async def redrive(self, request: pb.RedriveRequest, call: Call) -> pb.RedriveResponse:
        operation = Redrive(request=request, caller=call.caller)
        reply: pb.RedriveResponse = reply_of(await self._leading.submit(operation))
        return reply

    async def delete_dead_letters(
        self, request: pb.DeleteDeadLettersRequest, call: Call
    ) -> pb.DeleteDeadLettersResponse:
        operation = DeleteDeadLetters(request=request, caller=call.caller)
        reply: pb.DeleteDeadLettersResponse = reply_of(await self._leading.submit(operation))
        return reply

    async def purge_queue(self, request: pb.PurgeQueueRequest, call: Call) -> pb.PurgeQueueResponse:
        operation = PurgeQueue(request=request, caller=call.caller)
        reply: pb.PurgeQueueResponse = reply_of(await self._leading.submit(operation))
        return reply
