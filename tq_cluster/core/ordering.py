"""Which ready task is next: lanes, and the order inside them.

A lane is what is served in one order; a queue without fairness keys has one, lane 0. LANES names
the lanes that hold ready tasks, by start tag; the tag of a queue's only lane stays at zero, so that
its claims write nothing here until it runs empty.

Inside a lane READY is ordered by priority, then by when a task became due, then by submission. That
is strict priority read straight from the front. With aging, a step of priority is worth
``aging_ms`` of waiting: the task of the least *rank*, due_ms - priority x aging_ms, is next; inside
one priority that is the key order again, so a claim merges the fronts of the priorities that hold
tasks, at most 256. Ranks are never stored: settings may change at any time and hold at once, for
every task, without a row being rewritten. Strict priority is a rank whose ``aging_ms`` is longer
than any wait, which is how queues of both kinds compare in one claim.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tq.v1 import queue_service_pb2
from tq_cluster.core import states, tables
from tq_cluster.core.batch import Queue, Space
from tq_cluster.core.view import View

LANE: Final = 0
_BAND: Final = 0
_START_TAG: Final = 0
_STRICT_AGING_MS: Final = 1 << 48
"""Longer than any wait: one step of priority is worth more than any difference in due times."""

PASSED_MAX: Final = 1_000
"""Of each sorted run a claim passes at most so many tasks that it does not want."""

Wanted = Callable[[bytes], bool]
"""Whether a task may be wanted, by what READY holds of its type."""
Ready = tuple[int, int, Queue, int, int]
"""Rank, task number, queue, priority, instant due."""


def type_digest(task_type: str) -> int:
    """Shorten a type for READY: never 0, and hardly ever the same for two."""
    return zlib.crc32(task_type.encode()) or 1


def enter(
    space: Space, queue: Queue, number: int, priority: int, due_at_ms: int, digest: int
) -> None:
    """Put a task among the ready of its queue; the caller counts it as PENDING after this."""
    workspace = space.workspace
    if not queue.counts[states.PENDING]:
        workspace.put(tables.LANES, _only_lane(space.prefix, queue), b"")
    key = tables.ready_key(space.prefix, queue.queue_id, LANE, priority, due_at_ms, number)
    workspace.put(tables.READY, key, ready_value(digest))
    space.wakeups.ready_queues.add(queue.name)


def ready_value(digest: int) -> bytes:
    """Return what READY holds of a task whose type has this digest."""
    return digest.to_bytes(4, "big") if digest else b""


def leave(space: Space, queue: Queue, number: int, priority: int, due_at_ms: int) -> None:
    """Take a task from the ready; the caller no longer counts it as PENDING after this."""
    workspace = space.workspace
    key = tables.ready_key(space.prefix, queue.queue_id, LANE, priority, due_at_ms, number)
    workspace.delete(tables.READY, key)
    if queue.counts[states.PENDING] == 1:
        workspace.delete(tables.LANES, _only_lane(space.prefix, queue))


def in_order(
    view: View,
    prefix: bytes,
    queues: Sequence[Queue],
    limit: int,
    wanted: Wanted | None = None,
) -> Iterator[Ready]:
    """Yield up to ``limit`` ready tasks of any of ``queues``, the most urgent first.

    Reads lazily: about one row for each task taken and one for each priority in use, and those that
    are not ``wanted`` on the way.
    """
    fronts: list[Iterator[Ready]] = []
    for queue in queues:
        fronts.extend(_fronts(view, prefix, queue, limit, wanted))
    merged = fronts[0] if len(fronts) == 1 else heapq.merge(*fronts, key=_urgency)
    for count, ready in enumerate(merged, 1):
        yield ready
        if count == limit:
            return


def _fronts(
    view: View, prefix: bytes, queue: Queue, limit: int, wanted: Wanted | None
) -> Iterator[Iterator[Ready]]:
    """Yield the sorted runs of a queue's ready tasks, each from its own front."""
    lane = _first_lane(view, prefix, queue)
    if lane is None:
        return
    start = tables.ready_key(prefix, queue.queue_id, lane, 255, 0, 0)
    stop = tables.lane_end(prefix, queue.queue_id, lane)
    if queue.ordering != queue_service_pb2.QueueSettings.ORDERING_AGING:
        yield _run(view, queue, _STRICT_AGING_MS, start, stop, limit, wanted)
        return
    while (first := next(view.scan(tables.READY, start, stop, limit=1), None)) is not None:
        priority, _, _ = tables.split_ready(first[0])
        following = tables.priority_end(prefix, queue.queue_id, lane, priority)
        yield _run(view, queue, queue.aging_ms, first[0], following, limit, wanted)
        start = following


def _run(
    view: View,
    queue: Queue,
    aging_ms: int,
    start: bytes,
    stop: bytes,
    limit: int,
    wanted: Wanted | None,
) -> Iterator[Ready]:
    most = limit if wanted is None else limit + PASSED_MAX
    for key, digest in view.scan(tables.READY, start, stop, limit=most):
        if wanted is not None and not wanted(digest):
            continue
        priority, due_at_ms, number = tables.split_ready(key)
        yield due_at_ms - priority * aging_ms, number, queue, priority, due_at_ms


def _urgency(ready: Ready) -> tuple[int, int]:
    return ready[0], ready[1]


def _only_lane(prefix: bytes, queue: Queue) -> bytes:
    return tables.lane_key(prefix, queue.queue_id, _BAND, _START_TAG, LANE)


def _first_lane(view: View, prefix: bytes, queue: Queue) -> int | None:
    """The lane that is served next: the one of the least start tag."""
    start = tables.lane_key(prefix, queue.queue_id, 0, 0, 0)
    stop = tables.queue_key(prefix, queue.queue_id + 1)
    first = next(view.scan(tables.LANES, start, stop, limit=1), None)
    return None if first is None else tables.split_lane(first[0])
