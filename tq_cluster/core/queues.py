"""How queues behave, and their end."""

from __future__ import annotations

from itertools import islice
from typing import Final, NamedTuple

from tq.v1 import errors_pb2, queue_service_pb2
from tq_cluster.core import ordering, states, tables
from tq_cluster.core.batch import AGING_MS_DEFAULT, Queue, Space
from tq_cluster.core.limits import DAY_MS
from tq_cluster.core.operations import (
    ANY_TYPE,
    ConfigureQueue,
    DeleteQueue,
    Outcome,
    Ready,
    Refused,
    Replied,
)
from tq_cluster.core.spans import duration, to_ms
from tq_cluster.core.validation import check_queue_name, check_span, invalid

_Settings = queue_service_pb2.QueueSettings
_TYPES_TOLD_MAX: Final = 100
_SHOWN_MAX: Final = 64


class _Stored(NamedTuple):
    """A queue's settings as they are stored."""

    ordering: queue_service_pb2.QueueSettings.Ordering.ValueType
    aging_ms: int
    paused: bool


_DEFAULT: Final = _Stored(_Settings.ORDERING_STRICT, AGING_MS_DEFAULT, paused=False)
_FIELD_OF: Final = {"ordering": "ordering", "aging": "aging_ms", "paused": "paused"}
"""What an update_mask may name."""


def decide_configure(space: Space, operation: ConfigureQueue) -> Outcome:
    """Set a queue's settings; they hold from here on for every task in it."""
    request = operation.request
    fault = check_queue_name("queue", request.queue) or _check(request)
    if fault is not None:
        return fault
    found = space.find_queue(request.queue)
    if found is None and request.must_exist:
        return no_such_queue(request.queue)
    before = _stored(found) if found is not None else _DEFAULT
    if request.etag and request.etag != _etag_of(before):
        return _changed(request.queue, before)
    wanted = _wanted(request, before)
    queue = space.queue_or_new(request.queue)
    if wanted != before:
        queue.ordering, queue.aging_ms, queue.paused = wanted
        queue.changed = space.batch.changed = True
        if not queue.paused and (pending := queue.counts[states.PENDING]):
            space.wakeups.ready.append(Ready(queue.name, _ready_types(space, queue), pending))
    reply = queue_service_pb2.ConfigureQueueResponse(settings=settings_of(queue))
    return Replied(reply=reply)


def decide_delete(space: Space, operation: DeleteQueue) -> Outcome:
    """Remove a queue that holds no task."""
    name = operation.request.queue
    fault = check_queue_name("queue", name)
    if fault is not None:
        return fault
    queue = space.find_queue(name)
    if queue is None:
        return no_such_queue(name)
    held = sum(queue.counts)
    if held:
        return Refused(
            reason=errors_pb2.ERROR_REASON_QUEUE_IN_USE,
            message=f"queue {name!r} holds {held:,} tasks, those that have ended and are kept for"
            " a while included; only an empty one can be deleted",
            field="queue",
            metadata={"field": "queue", "actual": str(held)},
        )
    space.drop_queue(queue)
    return Replied(reply=queue_service_pb2.DeleteQueueResponse())


def _wanted(request: queue_service_pb2.ConfigureQueueRequest, before: _Stored) -> _Stored:
    settings = request.settings
    wanted = _Stored(
        settings.ordering or _Settings.ORDERING_STRICT,
        to_ms(settings.aging) if settings.HasField("aging") else AGING_MS_DEFAULT,
        settings.paused,
    )
    if not request.HasField("update_mask"):
        return wanted
    fields = [_FIELD_OF[path] for path in request.update_mask.paths]
    return before._replace(**{field: getattr(wanted, field) for field in fields})


def _ready_types(space: Space, queue: Queue) -> dict[int, int]:
    """Which types are ready in a queue; how many of each nobody counts."""
    if tables.READY_BY_TYPE not in space.counters.filled_tables:
        return {ANY_TYPE: queue.counts[states.PENDING]}
    search = ordering.Search(space.workspace, space.prefix, filled=True)
    types = list(islice(search.types_in_use(queue), _TYPES_TOLD_MAX + 1))
    if len(types) > _TYPES_TOLD_MAX:
        return {ANY_TYPE: queue.counts[states.PENDING]}
    return dict.fromkeys(types, queue.counts[states.PENDING])


def _check(request: queue_service_pb2.ConfigureQueueRequest) -> Refused | None:
    settings = request.settings
    if len(request.update_mask.paths) > len(_FIELD_OF):
        return invalid("update_mask", f"names {len(request.update_mask.paths)} fields; it takes 3")
    for path in request.update_mask.paths:
        if path not in _FIELD_OF:
            names = ", ".join(_FIELD_OF)
            return invalid("update_mask", f"names {path[:_SHOWN_MAX]!r}; it takes {names}")
    if settings.ordering not in _Settings.Ordering.values():
        return invalid("settings.ordering", f"is {settings.ordering}, which is no ordering")
    if settings.HasField("aging"):
        return check_span("settings.aging", settings.aging, 1, DAY_MS)
    return None


def settings_of(queue: Queue) -> queue_service_pb2.QueueSettings:
    """Return a queue's settings as callers see them."""
    settings = _stored(queue)
    return _Settings(
        ordering=settings.ordering,
        aging=duration(settings.aging_ms),
        paused=settings.paused,
        etag=_etag_of(settings),
    )


def _stored(queue: Queue) -> _Stored:
    return _Stored(queue.ordering, queue.aging_ms, queue.paused)


def _etag_of(settings: _Stored) -> str:
    """Made of the settings alone: who sets them back to what they were has changed nothing."""
    return f"{settings.ordering}-{settings.aging_ms}-{int(settings.paused)}"


def _changed(name: str, before: _Stored) -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_SETTINGS_CHANGED,
        message=f"the settings of queue {name!r} are others by now: ordering "
        f"{_Settings.Ordering.Name(before.ordering).removeprefix('ORDERING_')}, aging "
        f"{before.aging_ms} ms, {'paused' if before.paused else 'not paused'}",
        field="etag",
        metadata={"field": "etag"},
    )


def no_such_queue(name: str) -> Refused:
    """Return the refusal of a call that names a queue which is not there."""
    return Refused(
        reason=errors_pb2.ERROR_REASON_NOT_FOUND,
        message=f"there is no queue {name[:128]!r}: no task has named it",
        field="queue",
        metadata={"field": "queue"},
    )
