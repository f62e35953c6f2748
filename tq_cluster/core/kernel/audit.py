"""What an audit checks: one namespace of a state, read once for all audits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.kernel.queue import Queue, read_queue
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

EVERYTHING: Final = 1 << 40
"""A limit above the rows of any state: an audit reads all of it."""

Rows = dict[bytes, bytes]


class Task(NamedTuple):
    """A task that lacks neither its queue nor its spec nor its result."""

    number: int
    row: state_pb2.TaskRow
    spec: task_pb2.TaskSpec


class Audited:
    """One namespace of a state."""

    def __init__(self, scope: Scope[View]) -> None:
        self.view = scope.view
        self.prefix = scope.prefix
        counters = scope.view.get(tables.META, tables.COUNTERS_KEY)
        self.counters = state_pb2.CountersRow.FromString(counters or b"")
        """The cluster's: of all namespaces."""
        queue_ids = [int.from_bytes(key[-4:], "big") for key in self.rows(tables.QUEUES)]
        self.queues: dict[int, Queue] = {
            queue_id: read_queue(self.view, self.prefix, queue_id) for queue_id in queue_ids
        }
        self.rows_of_tasks = {
            tables.split_number(key): state_pb2.TaskRow.FromString(value)
            for key, value in self.rows(tables.TASKS).items()
        }
        """The row of each task, by number."""
        self.tasks: list[Task] = []
        self.faults: list[str] = []
        """The faults of tasks that are not in ``tasks``, in words."""
        for number, row in self.rows_of_tasks.items():
            self._add(number, row)

    def rows(self, table: int) -> Rows:
        """Return the namespace's rows of a table."""
        stop = tables.end_of(self.prefix)
        return dict(self.view.scan(table, self.prefix, stop, limit=EVERYTHING))

    def compare(self, table: int, expected: Rows) -> Iterator[str]:
        """Yield the differences between a table's rows and those that it should have."""
        found = self.rows(table)
        for key in sorted(found.keys() | expected.keys()):
            if found.get(key) != expected.get(key):
                yield (
                    f"table {table}, key {key.hex()}: has {found.get(key)!r},"
                    f" should have {expected.get(key)!r}"
                )

    def _add(self, number: int, row: state_pb2.TaskRow) -> None:
        key = tables.number_key(self.prefix, number)
        spec = self.view.get(tables.SPECS, key)
        if row.queue_id not in self.queues:
            self.faults.append(f"task {number} is in queue {row.queue_id}, which does not exist")
        elif spec is None:
            self.faults.append(f"task {number} has no spec")
        elif row.has_result and self.view.get(tables.RESULTS, key) is None:
            self.faults.append(f"task {number} has no result")
        else:
            self.tasks.append(Task(number, row, task_pb2.TaskSpec.FromString(spec)))
