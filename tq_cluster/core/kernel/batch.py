"""State that a batch of decisions reads once and writes once: counters, queues, wakeups."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeAlias

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel.queue import Queue, new_queue_row, read_queue
from tq_cluster.core.model import states
from tq_cluster.core.model.events import TaskEvent, What
from tq_cluster.core.model.limits import Limits
from tq_cluster.core.model.operations import HashRange, Ready, Wakeups
from tq_cluster.core.model.types import FencingToken, TaskNumber, TimestampMs
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.view import Workspace

CLUSTER_VERSION_FIRST: Final = 1
_TOKENS_A_SECOND: Final = 1 << 20
TOKEN_MAX: Final = (1 << 53) - 1
"""A larger token would lose digits in JSON or in a float."""


class Draw(Protocol):
    """A source of jitter, for example ``random.Random``."""

    def random(self) -> float:
        """Return a number from 0 to 1, not including 1."""


Step: TypeAlias = Callable[["Space", Queue, int, state_pb2.TaskRow], None]
"""A step at a moment of a task's life: namespace, queue, task number, row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """The steps at each moment of a task's life, in their order.

    The queue's counts, the listing by state and the state's index are kept by `transitions` itself.
    """

    arrive: tuple[Step, ...] = ()
    """It is new."""
    ready: tuple[Step, ...] = ()
    """It becomes PENDING, before it is among the ready."""
    start: tuple[Step, ...] = ()
    """A lease on it has been granted."""
    give_back: tuple[Step, ...] = ()
    """Its attempt ends: what that held is free again, for its children, too."""
    end: tuple[Step, ...] = ()
    """It has become terminal; its children have arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """When a table begins to be kept, and how it is filled."""

    version: int
    """The cluster version that introduces it."""
    on_demand: bool
    """Whether it is kept only once a call has needed it."""
    source: int
    """The table that the backfill scans."""
    fill: Callable[[Workspace, bytes, bytes], int]
    """Writes the rows for one row of the source, and returns how many rows it read."""


class Progress(NamedTuple):
    """What a slice of a continuation did."""

    items: int
    """An item is a few rows read or written."""
    complete: bool
    """Whether nothing of it is left."""


GoOn: TypeAlias = Callable[
    ["Space", state_pb2.ContinuationRow, int], Generator[None, None, Progress]
]
"""Does a slice of a continuation of up to so many items, and moves the cursor in its row."""


def tokens_by(at_ms: int) -> int:
    """Return the least token of a lease granted at this instant."""
    return at_ms // 1000 * _TOKENS_A_SECOND


class Batch:
    """The batch as a whole: its instant, its counters, its wakeups."""

    def __init__(
        self,
        workspace: Workspace,
        now_ms: TimestampMs,
        draw: Draw,
        limits: Limits,
        stepped_ms: int = 0,
        *,
        moments: Moments,
        kept_tables: Mapping[int, Kept],
        continuations: Mapping[int, GoOn],
        tell_events: bool = False,
    ) -> None:
        """Start from the end of the last batch; time must not have gone back since.

        ``moments``, ``kept_tables``, by table number, and ``continuations``, by kind, are what the
        features registered.
        """
        self.moments = moments
        self.kept_tables = kept_tables
        self.continuations = continuations
        self.begun: deque[tuple[Space, state_pb2.ContinuationRow]] = deque()
        """The continuations that the present operation has begun."""
        self.workspace = workspace
        self.now_ms = now_ms
        self.draw = draw
        self.limits = limits
        self.wakeups = Wakeups(events=[] if tell_events else None)
        self.hash_range: HashRange | None = None
        self.changed = False
        """Whether anything was written; if not, `finish` writes nothing."""
        self.members: dict[str, str] | None = None
        """The members' incarnations, if they have changed."""
        row = workspace.get(tables.META, tables.COUNTERS_KEY)
        self.counters = state_pb2.CountersRow.FromString(row or b"")
        assert now_ms >= self.counters.now_ms, (
            f"log time went back from {self.counters.now_ms} to {now_ms}"
        )
        self.counters.stepped_ms = max(self.counters.stepped_ms, stepped_ms)
        self.keeps_types = tables.READY_BY_TYPE in self.counters.kept_tables
        """Whether READY_BY_TYPE is written."""
        self._spaces: dict[int, Space] = {}

    def space(self, namespace: int) -> Space:
        """Return one namespace's part of the batch."""
        space = self._spaces.get(namespace)
        if space is None:
            space = self._spaces[namespace] = Space(self, namespace)
        return space

    def ready(self) -> list[Ready]:
        """Return by queue how many more tasks are ready than before the batch.

        Tasks that are taken from here on are taken by claims that were met: see `Space.finish`.
        """
        spaces = self._spaces.values()
        return [ready for space in spaces for ready in space.ready()]

    def finish(self) -> Iterator[None]:
        """Write the queues and counters in steps, if anything changed."""
        if not self.changed:
            return
        for space in self._spaces.values():
            yield from space.finish()
        self.counters.now_ms = self.now_ms
        self.workspace.put(
            tables.META, tables.COUNTERS_KEY, self.counters.SerializeToString(deterministic=True)
        )

    def let_go(self) -> None:
        """Drop the spaces, which refer to the batch: no cycle is left for garbage collection."""
        self._spaces.clear()
        self.begun.clear()


class Space:
    """One namespace's part of the state, as a batch is changing it."""

    __slots__ = (
        "_by_id",
        "_by_name",
        "batch",
        "counters",
        "limits",
        "moments",
        "namespace",
        "now_ms",
        "prefix",
        "wakeups",
        "workspace",
    )

    def __init__(self, batch: Batch, namespace: int) -> None:
        self.batch = batch
        self.workspace = batch.workspace
        self.now_ms = batch.now_ms
        self.limits = batch.limits
        self.moments = batch.moments
        self.wakeups = batch.wakeups
        self.counters = batch.counters
        self.namespace = namespace
        self.prefix = tables.prefix_of(namespace)
        self._by_name: dict[str, Queue | None] = {}
        self._by_id: dict[int, Queue] = {}

    @property
    def passed_ms(self) -> int:
        """Log time without its steps; request ids age by it."""
        return self.now_ms - self.counters.stepped_ms

    def queue(self, queue_id: int) -> Queue:
        """Return the queue of a task."""
        queue = self._by_id.get(queue_id)
        if queue is None:
            queue = read_queue(self.workspace, self.prefix, queue_id)
            self._by_id[queue_id] = self._by_name[queue.name] = queue
        return queue

    def find_queue(self, name: str) -> Queue | None:
        """Return the queue of this name, if there is one."""
        try:
            return self._by_name[name]
        except KeyError:
            queue_id = rows.read_queue_id(self.workspace, self.prefix, name)
        if queue_id is None:
            self._by_name[name] = None
            return None
        return self.queue(queue_id)

    def find_queue_by_id(self, queue_id: int) -> Queue | None:
        """Return the queue with this id, unless it has been removed."""
        found = self._by_id.get(queue_id)
        key = tables.queue_key(self.prefix, queue_id)
        if found is None and self.workspace.get(tables.QUEUES, key) is not None:
            return self.queue(queue_id)
        return found

    def queue_or_new(self, name: str) -> Queue:
        """Return the queue of this valid name; create it if there is none."""
        queue = self.find_queue(name)
        if queue is None:
            self.counters.queue_id += 1
            queue = Queue(self.namespace, self.counters.queue_id, new_queue_row(name))
            queue.changed = self.batch.changed = True
            self._by_name[name] = self._by_id[queue.queue_id] = queue
            self.workspace.put(
                tables.QUEUE_IDS,
                tables.name_key(self.prefix, name),
                queue.queue_id.to_bytes(4, "big"),
            )
        return queue

    def drop_queue(self, queue: Queue) -> None:
        """Remove a queue without tasks; its id is never used again."""
        if queue.changed:
            self.wakeups.tallies.append(queue.tally)
        self._by_name[queue.name] = None
        del self._by_id[queue.queue_id]
        self.workspace.delete(tables.QUEUES, tables.queue_key(self.prefix, queue.queue_id))
        self.workspace.delete(tables.QUEUE_IDS, tables.name_key(self.prefix, queue.name))
        self.batch.changed = True

    def next_task_number(self) -> TaskNumber:
        """Return the number of the next task in the order of submission."""
        number = self.counters.task_number + 1
        self.counters.task_number = number
        return TaskNumber(number)

    def next_token(self) -> FencingToken:
        """Return a token above every token that this group ever granted.

        That includes the tokens granted before this second that a state restored from an old
        backup does not hold.
        """
        token = max(self.counters.token + 1, tokens_by(self.now_ms))
        assert token <= TOKEN_MAX, "fencing tokens are used up: is the clock centuries ahead?"
        self.counters.token = token
        return FencingToken(token)

    def put_task(self, number: int, row: state_pb2.TaskRow) -> None:
        """Store a task's row."""
        self.workspace.put(
            tables.TASKS, tables.number_key(self.prefix, number), row.SerializeToString()
        )
        self.batch.changed = True

    def ready(self) -> Iterator[Ready]:
        """Yield how many more tasks are ready than before the batch, a queue at a time."""
        for queue in self._by_id.values():
            if not queue.changed:
                continue
            came, left = _moves(queue)
            if queue.left_before_meeting is None:
                queue.left_before_meeting = left
            if (ready := self._more(queue, came, left)) is not None:
                yield ready

    def _to_wake(self, queue: Queue) -> Ready | None:
        """Return the tasks for which claims are to be woken: all that became ready.

        Those that a claim of the batch has taken are not subtracted: it may have been woken for
        another one before, and has used up that wake now. Those that met claims have taken are,
        because they carried no wake.
        """
        came, left = _moves(queue)
        before = queue.left_before_meeting
        taken = {} if before is None else {each: left[each] - before.get(each, 0) for each in left}
        return self._more(queue, came, taken)

    def _more(self, queue: Queue, came: Mapping[int, int], left: Mapping[int, int]) -> Ready | None:
        pending = queue.counts[states.PENDING]
        if not pending or queue.paused:
            return None
        more = {
            digest: count - left.get(digest, 0)
            for digest, count in came.items()
            if count > left.get(digest, 0)
        }
        return Ready(self.namespace, queue.name, more, pending) if more else None

    def note(self, what: What, queue: Queue, number: int, row: state_pb2.TaskRow) -> None:
        """Record an event of a task with the present values of its row, if events are wanted."""
        events = self.wakeups.events
        if events is None:
            return
        spec = rows.read_spec(self.workspace, self.prefix, number)
        events.append(
            TaskEvent(
                what=what,
                namespace=self.namespace,
                task_id=spec.task_id,
                queue=queue.name,
                task_type=spec.type,
                attempt=row.attempts_made,
                worker_id=row.worker_id,
                traceparent=spec.traceparent,
                due_at_ms=row.due_at_ms,
                reason=row.failure_reason,
            )
        )

    def finish(self) -> Iterator[None]:
        """Write the changed queues and report the moves in them, one queue per step."""
        for queue in self._by_id.values():
            if queue.changed:
                self.wakeups.tallies.append(queue.tally)
                if (ready := self._to_wake(queue)) is not None:
                    self.wakeups.ready.append(ready)
                self.workspace.put(
                    tables.QUEUES,
                    tables.queue_key(self.prefix, queue.queue_id),
                    queue.row().SerializeToString(deterministic=True),
                )
                yield


def _moves(queue: Queue) -> tuple[dict[int, int], dict[int, int]]:
    """Return how many tasks of each type became ready, and how many ceased to be."""
    came: dict[int, int] = {}
    left: dict[int, int] = {}
    for (digest, before, after), count in queue.tally.moves.items():
        if after == states.PENDING:
            came[digest] = came.get(digest, 0) + count
        elif before == states.PENDING:
            left[digest] = left.get(digest, 0) + count
    return came, left
