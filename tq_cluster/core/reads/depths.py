"""Queue depths: unfinished tasks by state and by band of priorities.

The counts are in the queue's own row and change with its tasks, so that no table is scanned for
them. The count of the lowest band, which holds the default priority, is the state's count less
those of the other bands.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tq_cluster.core.kernel import ready_order
from tq_cluster.core.kernel.queue import UPPER_BANDS, Queue, read_queue
from tq_cluster.core.model import states
from tq_cluster.core.reads.steps import Reader
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

BANDS: Final = UPPER_BANDS + 1


class Depth(NamedTuple):
    """The counts of one queue."""

    queue: str
    unfinished: dict[tuple[states.State, int], int]
    """By state and band, 0 being the band of the lowest priorities."""
    finished: dict[states.State, int]
    """By state, the tasks that are kept until their retention ends."""
    paused: bool
    purging: int
    """How many of the waiting tasks are purged."""
    head_due_ms: int | None
    """When the next task to be claimed became due, in ms. None: none is pending."""


def queue_depths(scope: Scope[Reader], after: str, limit: int) -> list[Depth]:
    """Return the depths of up to ``limit`` queues with names above ``after``, by name.

    It returns at least one if there is any, and no more than one step reads: the search for the
    next task of a queue with aging reads up to 256 priorities.
    """
    view, prefix = scope.view, scope.prefix
    start = tables.name_key(prefix, after) + b"\x00" if after else prefix
    depths: list[Depth] = []
    for _, value in view.scan(tables.QUEUE_IDS, start, tables.end_of(prefix), limit=limit):
        queue = read_queue(view, prefix, int.from_bytes(value, "big"))
        depths.append(_depth(view, prefix, queue))
        if view.step_is_over:
            break
    return depths


def _depth(view: View, prefix: bytes, queue: Queue) -> Depth:
    unfinished: dict[tuple[states.State, int], int] = {}
    for state in states.UNFINISHED:
        upper = queue.upper_bands(state)
        unfinished[state, 0] = queue.counts[state] - sum(upper)
        for band, count in enumerate(upper, 1):
            unfinished[state, band] = count
    head_due_ms = None
    if queue.counts[states.PENDING]:
        head_due_ms = ready_order.head_due_ms(view, prefix, queue)
    finished = {state: queue.counts[state] for state in sorted(states.TERMINAL)}
    return Depth(queue.name, unfinished, finished, queue.paused, queue.purge_left, head_due_ms)
