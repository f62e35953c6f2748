"""The order of ready tasks: lanes, types, and the order inside them.

The tasks of a lane are served in one order; a queue without fairness keys has one lane, 0, which
needs no lookup. LANES names the lanes that hold ready tasks, by start tag; the tag of a queue's
only lane stays at zero, so that its claims write nothing to LANES until it runs empty.

Inside a lane READY is ordered by priority, then by when a task became due, then by submission. That
is strict priority, read from the front. With aging, a step of priority is worth
``aging_ms`` of waiting: the task of the least *rank*, due_ms - priority x aging_ms, is next; inside
one priority that is the key order again, so a claim merges the fronts of the priorities that hold
tasks, at most 256. Ranks are never stored: changed settings hold at once for every task, without a
row being rewritten. Strict priority is a rank whose ``aging_ms`` is longer than any wait, so that
queues of both kinds can be compared in one claim.

READY_BY_TYPE has the same rows with the type in place of the lane: a claim of some types merges
the fronts of the types in use, and never passes over tasks that it may not take. The types in use
are not counted: a search seeks from one type's tasks to the next wanted type.
"""

from __future__ import annotations

import heapq
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final, TypeAlias

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2
from tq_cluster.core.kernel.batch import Draw, Space
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.model import states
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.view import View, Workspace

LANE: Final = 0
_BAND: Final = 0
_START_TAG: Final = 0
_STRICT_AGING_MS: Final = 1 << 48
"""Longer than any wait: one step of priority is worth more than any difference in due times."""
_PRIORITIES: Final = 256
_DIGESTS: Final = 1 << 32

SEARCH_ROWS_MAX: Final = 1_000
"""The most rows that a search reads beside those that it finds: one for each front that it merges
or finds empty and, while READY_BY_TYPE is not filled, one for each task that it may not take.
"""
TYPES_MERGED_MAX: Final = 256
"""The most types that a claim merges in one strict queue; with more, it reads the queue from its
front instead.
"""

Row: TypeAlias = tuple[bytes, bytes]
Ready: TypeAlias = tuple[int, int, Queue, int, int]
"""Rank, task number, queue, priority, instant due."""


def type_digest(task_type: str) -> int:
    """Return a type's digest for READY: never 0, and hardly ever the same for two types."""
    return zlib.crc32(task_type.encode()) or 1


def enter(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Put a task among the ready of its queue; the caller counts it as PENDING after this."""
    put = space.workspace.put
    if not queue.counts[states.PENDING]:
        put(tables.LANES, _only_lane(space.prefix, queue), b"")
    prefix, queue_id, digest = space.prefix, queue.queue_id, row.type_digest
    place = row.priority, row.due_at_ms, number
    put(tables.READY, tables.ready_key(prefix, queue_id, LANE, *place), ready_value(digest))
    if digest and space.batch.keeps_types:
        put(tables.READY_BY_TYPE, tables.ready_key(prefix, queue_id, digest, *place), b"")


def ready_value(digest: int) -> bytes:
    """Return the value in READY of a task whose type has this digest."""
    return digest.to_bytes(4, "big") if digest else b""


def leave(space: Space, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
    """Take a task from the ready; the caller no longer counts it as PENDING after this."""
    delete = space.workspace.delete
    prefix, queue_id, digest = space.prefix, queue.queue_id, row.type_digest
    place = row.priority, row.due_at_ms, number
    delete(tables.READY, tables.ready_key(prefix, queue_id, LANE, *place))
    if digest and space.batch.keeps_types:
        delete(tables.READY_BY_TYPE, tables.ready_key(prefix, queue_id, digest, *place))
    if queue.counts[states.PENDING] == 1:
        delete(tables.LANES, _only_lane(prefix, queue))


def know_type(view: View, prefix: bytes, number: int, row: state_pb2.TaskRow) -> None:
    """Add the digest of its type to an older task's row that lacks it."""
    row.type_digest = type_digest(rows.read_spec(view, prefix, number).type)


def fill_by_type(workspace: Workspace, key: bytes, value: bytes) -> int:
    """Give a row of READY its row in READY_BY_TYPE; return how many rows were read for it."""
    read = 1
    digest = int.from_bytes(value, "big")
    if not digest:
        prefix, number = key[:3], tables.split_number(key)
        row = rows.read_task(workspace, prefix, number)
        know_type(workspace, prefix, number, row)
        digest = row.type_digest
        task_key = tables.number_key(prefix, number)
        workspace.put(tables.TASKS, task_key, row.SerializeToString())
        workspace.put(tables.READY, key, ready_value(digest))
        read = 3
    workspace.put(tables.READY_BY_TYPE, tables.by_type_key(key, digest), b"")
    return read


class Appetite:
    """The types that a claim takes, by their digests. Appetites for the same types are equal."""

    __slots__ = ("_hash", "but", "only")

    def __init__(self, types: Iterable[str] = (), but: Iterable[str] = ()) -> None:
        """Take ``types`` alone, if there are any, and none of ``but``."""
        wanted, unwanted = frozenset(types), frozenset(but)
        self.only: tuple[int, ...] | None = None
        """In rising order; None means all but ``but``."""
        self.but: frozenset[int] = frozenset()
        if wanted:
            self.only = tuple(sorted({type_digest(each) for each in wanted - unwanted}))
        else:
            # If two types share a digest (one in 2^32), the wanted one waits with the other.
            self.but = frozenset(type_digest(each) for each in unwanted)
        self._hash = hash((self.only, self.but))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Appetite) and (self.only, self.but) == (other.only, other.but)

    @property
    def is_for_all(self) -> bool:
        """Whether it takes every type."""
        return self.only is None and not self.but

    def takes(self, digest: int) -> bool:
        """Whether it takes a type of this digest."""
        if self.only is None:
            return digest not in self.but
        at = bisect_left(self.only, digest)
        return at < len(self.only) and self.only[at] == digest

    def least_from(self, digest: int) -> int | None:
        """Return the least digest that it takes and that is at least ``digest``."""
        if self.only is not None:
            at = bisect_left(self.only, digest)
            return self.only[at] if at < len(self.only) else None
        while digest in self.but:
            digest += 1
        return digest if digest < _DIGESTS else None


EVERY_TYPE: Final = Appetite()


class Search:
    """A search for the most urgent ready tasks, at a bounded cost.

    It merges all fronts, unless a claim names very many queues and types and very many types and
    priorities are in use. Then it merges the fronts that it reached within its bound, and begins at
    a random queue and type each time.
    """

    def __init__(
        self,
        view: View,
        prefix: bytes,
        appetite: Appetite = EVERY_TYPE,
        *,
        filled: bool = False,
    ) -> None:
        """Search one namespace; ``filled`` means that READY_BY_TYPE holds all the ready tasks."""
        self._view = view
        self._prefix = prefix
        self._appetite = appetite
        self._filled = filled
        self._rows_left = SEARCH_ROWS_MAX
        self._first_digest = 0
        self.passed = 0
        """The number of unwanted tasks that it has passed over."""
        self._fronts: list[Iterator[Ready]] = []

    @property
    def exhausted(self) -> bool:
        """Whether it has reached its bound."""
        return self._rows_left <= 0

    def pass_over(self) -> None:
        """Count a task that it found as not wanted after all."""
        self._rows_left -= 1
        self.passed += 1

    def arrange(self, queues: list[Queue], draw: Draw) -> list[Queue]:
        """Return the order to look at ``queues`` in: from a random one if it may not reach all."""
        if sum(self._fronts_max(queue) for queue in queues) <= SEARCH_ROWS_MAX:
            return queues
        self._first_digest = int(draw.random() * _DIGESTS)
        turn = int(draw.random() * len(queues))
        return queues[turn:] + queues[:turn]

    def look_at(self, queue: Queue, limit: int) -> None:
        """Find the fronts of a queue from which up to ``limit`` tasks may be taken.

        No scan stays open between this and ``in_order``.
        """
        self._fronts.extend(self._fronts_of(queue, limit))

    def in_order(self, limit: int) -> Iterator[Ready]:
        """Yield up to ``limit`` ready tasks of the queues looked at, the most urgent first.

        Reads lazily: about one row for each task taken and one for each type and priority in use.
        """
        fronts, self._fronts = self._fronts, []
        merged = fronts[0] if len(fronts) == 1 else heapq.merge(*fronts, key=_urgency)
        return islice(merged, limit)

    def types_in_use(self, queue: Queue) -> Iterator[int]:
        """Yield the digests of the types that it takes and that are ready in ``queue``."""
        return (tables.split_type(key) for key, _ in self._types(queue))

    def _fronts_max(self, queue: Queue) -> int:
        """Return the most sorted runs that a queue may have."""
        priorities = _PRIORITIES if _by_priority(queue) else 1
        most: int = queue.counts[states.PENDING]
        if self._appetite.is_for_all:
            return min(most, priorities)
        if self._appetite.only is not None:
            return min(most, priorities * len(self._appetite.only))
        return most

    def _fronts_of(self, queue: Queue, limit: int) -> Iterator[Iterator[Ready]]:
        """Yield the sorted runs of a queue's ready tasks, each from its own front."""
        if self._appetite.is_for_all or not self._filled:
            if queue.counts[states.PENDING]:
                yield from self._lane(tables.READY, queue, LANE, limit)
            return
        types = list(islice(self._types(queue), TYPES_MERGED_MAX))
        if len(types) == TYPES_MERGED_MAX and not _by_priority(queue):
            start = tables.ready_key(self._prefix, queue.queue_id, LANE, 255, 0, 0)
            stop = tables.lane_end(self._prefix, queue.queue_id, LANE)
            most = limit + self._rows_left // 2
            found = self._view.scan(tables.READY, start, stop, limit=most)
            first = next(self._picked(found), None)
            if first is not None:
                rest = self._rest(tables.READY, first[0], stop, most)
                yield self._ranked(queue, chain([first], self._picked(rest)))
                return
        for key, value in types:
            digest = tables.split_type(key)
            yield from self._lane(tables.READY_BY_TYPE, queue, digest, limit, (key, value))

    def _types(self, queue: Queue) -> Iterator[Row]:
        """Yield the first row of each type in use that is wanted."""
        stop = tables.queue_key(self._prefix, queue.queue_id + 1)
        for low, high in ((self._first_digest, _DIGESTS), (0, self._first_digest)):
            digest = self._appetite.least_from(low)
            while digest is not None and digest < high:
                start = tables.ready_key(self._prefix, queue.queue_id, digest, 255, 0, 0)
                first = self._seek(tables.READY_BY_TYPE, start, stop)
                if first is None or (found := tables.split_type(first[0])) >= high:
                    break
                if self._appetite.takes(found):
                    yield first
                    found += 1
                digest = self._appetite.least_from(found)

    def _lane(
        self, table: int, queue: Queue, lane: int, limit: int, first: Row | None = None
    ) -> Iterator[Iterator[Ready]]:
        """Yield the sorted runs of a lane or of a type; ``first`` is its first row, if known."""
        start = tables.ready_key(self._prefix, queue.queue_id, lane, 255, 0, 0)
        stop = tables.lane_end(self._prefix, queue.queue_id, lane)
        if not _by_priority(queue):
            yield self._run(table, queue, first, start, stop, limit)
            return
        if first is None:
            first = self._seek(table, start, stop)
        while first is not None:
            priority, _, _ = tables.split_ready(first[0])
            following = tables.priority_end(self._prefix, queue.queue_id, lane, priority)
            begin = start
            if queue.purged_to:
                behind = (priority, queue.purged_at_ms, queue.purged_to + 1)
                begin = tables.ready_key(self._prefix, queue.queue_id, lane, *behind)
            head = first if first[0] >= begin else None
            yield self._run(table, queue, head, begin, following, limit)
            first = self._seek(table, following, stop)

    def _run(
        self, table: int, queue: Queue, first: Row | None, start: bytes, stop: bytes, limit: int
    ) -> Iterator[Ready]:
        """Yield the tasks between two keys, in order; ``first``, if given, was read already."""
        picked = table == tables.READY and not self._appetite.is_for_all
        if picked:
            limit += self._rows_left
        found: Iterator[Row]
        if first is None:
            found = self._view.scan(table, start, stop, limit=limit)
        else:
            found = chain([first], self._rest(table, first[0], stop, limit - 1))
        return self._ranked(queue, self._picked(found) if picked else found)

    def _rest(self, table: int, key: bytes, stop: bytes, limit: int) -> Iterator[Row]:
        # Lazy, as most runs are read no further than their front.
        yield from self._view.scan(table, key + b"\x00", stop, limit=limit)

    def _picked(self, found: Iterable[Row]) -> Iterator[Row]:
        """Yield the wanted rows of READY; stop at an unwanted row once the bound is reached."""
        for key, digest in found:
            if not digest or self._appetite.takes(int.from_bytes(digest, "big")):
                yield key, digest
            elif self._rows_left <= 0:
                return
            else:
                self._rows_left -= 1
                self.passed += 1

    def _ranked(self, queue: Queue, found: Iterable[Row]) -> Iterator[Ready]:
        aging_ms = queue.aging_ms if _ages(queue) else _STRICT_AGING_MS
        for key, _ in found:
            priority, due_at_ms, number = tables.split_ready(key)
            yield due_at_ms - priority * aging_ms, number, queue, priority, due_at_ms

    def _seek(self, table: int, start: bytes, stop: bytes) -> Row | None:
        """Return the first row between two keys; None if there is none or the bound is reached."""
        if self._rows_left <= 0:
            return None
        self._rows_left -= 1
        return next(self._view.scan(table, start, stop, limit=1), None)


def head_due_ms(view: View, prefix: bytes, queue: Queue) -> int | None:
    """Return when the next task of a queue became due, in ms; None if none is ready."""
    search = Search(view, prefix)
    search.look_at(queue, 1)
    for _, _, _, _, due_at_ms in search.in_order(1):
        return due_at_ms
    return None


def _ages(queue: Queue) -> bool:
    return queue.ordering == queue_service_pb2.QueueSettings.ORDERING_AGING


def _by_priority(queue: Queue) -> bool:
    """Return whether each priority has a front of its own, rather than the queue one in all."""
    return _ages(queue) or queue.purged_to > 0


def _urgency(ready: Ready) -> tuple[int, int]:
    return ready[0], ready[1]


def _only_lane(prefix: bytes, queue: Queue) -> bytes:
    return tables.lane_key(prefix, queue.queue_id, _BAND, _START_TAG, LANE)
