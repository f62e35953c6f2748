"""How queues behave."""

from __future__ import annotations

from itertools import islice
from typing import Final

from tq.v1 import errors_pb2, queue_service_pb2
from tq_cluster.core import ordering, states, tables
from tq_cluster.core.batch import AGING_MS_DEFAULT, Queue, Space
from tq_cluster.core.limits import DAY_MS
from tq_cluster.core.operations import (
    ANY_TYPE,
    ConfigureQueue,
    Outcome,
    Ready,
    Refused,
    Replied,
)
from tq_cluster.core.spans import duration, to_ms
from tq_cluster.core.validation import check_queue_name, check_span, invalid

_Settings = queue_service_pb2.QueueSettings
_TYPES_TOLD_MAX: Final = 100


def decide_configure(space: Space, operation: ConfigureQueue) -> Outcome:
    """Replace a queue's settings; they hold from here on for every task in it."""
    request = operation.request
    fault = check_queue_name("queue", request.queue) or _check(request.settings)
    if fault is not None:
        return fault
    settings = request.settings
    queue = space.queue_or_new(request.queue)
    wanted = (
        settings.ordering or _Settings.ORDERING_STRICT,
        to_ms(settings.aging) if settings.HasField("aging") else AGING_MS_DEFAULT,
        settings.paused,
    )
    if wanted != (queue.ordering, queue.aging_ms, queue.paused):
        queue.ordering, queue.aging_ms, queue.paused = wanted
        queue.changed = space.batch.changed = True
        if not queue.paused and (pending := queue.counts[states.PENDING]):
            space.wakeups.ready.append(Ready(queue.name, _ready_types(space, queue), pending))
    reply = queue_service_pb2.ConfigureQueueResponse(settings=settings_of(queue))
    return Replied(reply=reply)


def _ready_types(space: Space, queue: Queue) -> dict[int, int]:
    """Which types are ready in a queue; how many of each nobody counts."""
    if tables.READY_BY_TYPE not in space.counters.filled_tables:
        return {ANY_TYPE: queue.counts[states.PENDING]}
    search = ordering.Search(space.workspace, space.prefix, filled=True)
    types = list(islice(search.types_in_use(queue), _TYPES_TOLD_MAX + 1))
    if len(types) > _TYPES_TOLD_MAX:
        return {ANY_TYPE: queue.counts[states.PENDING]}
    return dict.fromkeys(types, queue.counts[states.PENDING])


def _check(settings: queue_service_pb2.QueueSettings) -> Refused | None:
    if settings.ordering not in _Settings.Ordering.values():
        return invalid("settings.ordering", f"is {settings.ordering}, which is no ordering")
    if settings.HasField("aging"):
        return check_span("settings.aging", settings.aging, 1, DAY_MS)
    return None


def settings_of(queue: Queue) -> queue_service_pb2.QueueSettings:
    """Return a queue's settings as callers see them."""
    return _Settings(ordering=queue.ordering, aging=duration(queue.aging_ms), paused=queue.paused)


def no_such_queue(name: str) -> Refused:
    """Return the refusal of a call that names a queue which is not there."""
    return Refused(
        reason=errors_pb2.ERROR_REASON_NOT_FOUND,
        message=f"there is no queue {name[:128]!r}: no task ever named it",
        field="queue",
        metadata={"field": "queue"},
    )
