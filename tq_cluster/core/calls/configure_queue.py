"""Configure a queue."""

from __future__ import annotations

from itertools import islice
from typing import Final

from tq.v1 import errors_pb2, queue_service_pb2
from tq_cluster.core.kernel import ready_order
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.queue import (
    AGING_MS_DEFAULT,
    Queue,
    StoredSettings,
    _Settings,
    etag_of,
    settings_of,
    stored_settings,
)
from tq_cluster.core.kernel.refusals import no_such_queue
from tq_cluster.core.kernel.validation import check_queue_name, check_span, invalid
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import DAY_MS
from tq_cluster.core.model.operations import (
    ANY_TYPE,
    ConfigureQueue,
    Outcome,
    Ready,
    Refused,
    Replied,
)
from tq_cluster.core.model.proto_time import to_ms
from tq_cluster.core.rows import tables

_TYPES_TOLD_MAX: Final = 100
_SHOWN_MAX: Final = 64


_DEFAULT: Final = StoredSettings(_Settings.ORDERING_STRICT, AGING_MS_DEFAULT, paused=False)
_FIELD_OF: Final = {"ordering": "ordering", "aging": "aging_ms", "paused": "paused"}
"""The fields that an update_mask may name."""


def decide_configure(space: Space, operation: ConfigureQueue) -> Outcome:
    """Set a queue's settings; they hold from here on for every task in it."""
    request = operation.request
    fault = check_queue_name("queue", request.queue) or _check(request)
    if fault is not None:
        return fault
    found = space.find_queue(request.queue)
    if found is None and request.must_exist:
        return no_such_queue(request.queue)
    before = stored_settings(found) if found is not None else _DEFAULT
    if request.etag and request.etag != etag_of(before):
        return _changed(request.queue, before)
    wanted = _wanted(request, before)
    queue = space.queue_or_new(request.queue)
    if wanted != before:
        queue.ordering, queue.aging_ms, queue.paused = wanted
        queue.changed = space.batch.changed = True
        wake_for_all(space, queue)
    reply = queue_service_pb2.ConfigureQueueResponse(settings=settings_of(queue))
    return Replied(reply=reply)


def _wanted(
    request: queue_service_pb2.ConfigureQueueRequest, before: StoredSettings
) -> StoredSettings:
    settings = request.settings
    wanted = StoredSettings(
        settings.ordering or _Settings.ORDERING_STRICT,
        to_ms(settings.aging) if settings.HasField("aging") else AGING_MS_DEFAULT,
        settings.paused,
    )
    if not request.HasField("update_mask"):
        return wanted
    fields = [_FIELD_OF[path] for path in request.update_mask.paths]
    return before._replace(**{field: getattr(wanted, field) for field in fields})


def wake_for_all(space: Space, queue: Queue) -> None:
    """Wake the claims that wait for any of a queue's ready tasks: all can be claimed now."""
    if not queue.paused and (pending := queue.counts[states.PENDING]):
        types = _ready_types(space, queue)
        space.wakeups.ready.append(Ready(space.namespace, queue.name, types, pending))


def _ready_types(space: Space, queue: Queue) -> dict[int, int]:
    """Return the types that are ready in a queue, each with the count of all its ready tasks."""
    if tables.READY_BY_TYPE not in space.counters.filled_tables:
        return {ANY_TYPE: queue.counts[states.PENDING]}
    search = ready_order.Search(space.workspace, space.prefix, filled=True)
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


def _changed(name: str, before: StoredSettings) -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_SETTINGS_CHANGED,
        message=f"the settings of queue {name!r} are others by now: ordering "
        f"{_Settings.Ordering.Name(before.ordering).removeprefix('ORDERING_')}, aging "
        f"{before.aging_ms} ms, {'paused' if before.paused else 'not paused'}",
        field="etag",
        metadata={"field": "etag"},
    )


FEATURE: Final = Feature(
    name="configure queue",
    decisions=(decides(ConfigureQueue, decide_configure),),
)
