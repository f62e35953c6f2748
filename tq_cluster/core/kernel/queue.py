"""A queue as a batch changes it, and its settings as callers see them."""

from __future__ import annotations

from typing import Final, NamedTuple

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2
from tq_cluster.core.model import states
from tq_cluster.core.model.proto_time import duration
from tq_cluster.core.model.queue_moves import Tally
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import View

AGING_MS_DEFAULT: Final = 1_000


UPPER_BANDS: Final = 3
"""Priority bands with counts of their own; the lowest band is the remainder."""


BAND_SHIFT: Final = 6


class Queue:
    """A queue with the batch's changes so far."""

    __slots__ = (
        "_upper",
        "aging_ms",
        "changed",
        "counts",
        "entries",
        "left_before_meeting",
        "name",
        "ordering",
        "paused",
        "purge_left",
        "purged_at_ms",
        "purged_to",
        "purges",
        "queue_id",
        "tally",
    )

    def __init__(self, namespace: int, queue_id: int, row: state_pb2.QueueRow) -> None:
        self.queue_id = queue_id
        self.name = row.name
        self.ordering = row.ordering
        self.aging_ms = row.aging_ms
        self.paused = row.paused
        self.counts = list(row.tasks_by_state)
        # Older rows lack these counts: count from here on.
        self.entries = list(row.entries_by_state) or [0] * len(states.ALL)
        self._upper = list(row.upper_bands_by_state)
        self.purged_to = row.purged_to
        """0 while no purge is under way; see `kernel.purged`."""
        self.purged_at_ms = row.purged_at_ms
        self.purges = row.purges
        self.purge_left = row.purge_left
        self.changed = False
        self.tally = Tally(namespace, row.name)
        self.left_before_meeting: dict[int, int] | None = None
        """By type, how many tasks had ceased to be ready when waiting claims were first met."""

    def moved(self, number: int, row: state_pb2.TaskRow, before: states.State) -> None:
        """Count a task's move from state ``before`` to the state in its row."""
        after = row.state
        move = (row.type_digest, before, after)
        moves = self.tally.moves
        try:
            moves[move] += 1
        except KeyError:
            moves[move] = 1
            self.tally.examples[row.type_digest] = number
        if band := row.priority >> BAND_SHIFT:
            self._shift(band, before, after)

    def _shift(self, band: int, before: states.State, after: states.State) -> None:
        """Count a task's move in ``band``, one of the upper bands."""
        if not self._upper:
            self._upper = [0] * (UPPER_BANDS * len(states.ALL))
        if before in states.UNFINISHED:
            place = UPPER_BANDS * before + band - 1
            # The count can be zero if an earlier version, without bands, took the task in.
            self._upper[place] = max(0, self._upper[place] - 1)
        if after in states.UNFINISHED:
            self._upper[UPPER_BANDS * after + band - 1] += 1

    def upper_bands(self, state: states.State) -> list[int]:
        """Return the number of tasks in an unfinished state, per band except the lowest."""
        first = UPPER_BANDS * state
        return self._upper[first : first + UPPER_BANDS] or [0] * UPPER_BANDS

    def row(self) -> state_pb2.QueueRow:
        """Return the queue's row."""
        return state_pb2.QueueRow(
            name=self.name,
            ordering=self.ordering,
            aging_ms=self.aging_ms,
            paused=self.paused,
            tasks_by_state=self.counts,
            entries_by_state=self.entries,
            upper_bands_by_state=self._upper,
            purged_to=self.purged_to,
            purged_at_ms=self.purged_at_ms,
            purges=self.purges,
            purge_left=self.purge_left,
        )


def new_queue_row(name: str) -> state_pb2.QueueRow:
    """Return the row of a queue without tasks and with the default settings."""
    return state_pb2.QueueRow(
        name=name,
        ordering=queue_service_pb2.QueueSettings.ORDERING_STRICT,
        aging_ms=AGING_MS_DEFAULT,
        tasks_by_state=[0] * len(states.ALL),
    )


def read_queue(view: View, prefix: bytes, queue_id: int) -> Queue:
    """Return the queue with this id, which must exist."""
    row = view.get(tables.QUEUES, tables.queue_key(prefix, queue_id))
    assert row is not None, f"queue {queue_id} has no row"
    return Queue(tables.namespace_of(prefix), queue_id, state_pb2.QueueRow.FromString(row))


_Settings = queue_service_pb2.QueueSettings


class StoredSettings(NamedTuple):
    """A queue's settings as they are stored."""

    ordering: queue_service_pb2.QueueSettings.Ordering.ValueType
    aging_ms: int
    paused: bool


def settings_of(queue: Queue) -> queue_service_pb2.QueueSettings:
    """Return a queue's settings as callers see them."""
    settings = stored_settings(queue)
    return _Settings(
        ordering=settings.ordering,
        aging=duration(settings.aging_ms),
        paused=settings.paused,
        etag=etag_of(settings),
    )


def stored_settings(queue: Queue) -> StoredSettings:
    """Return a queue's settings as they are stored."""
    return StoredSettings(queue.ordering, queue.aging_ms, queue.paused)


def etag_of(settings: StoredSettings) -> str:
    """Return the etag, from the settings alone: setting the old values restores the old etag."""
    return f"{settings.ordering}-{settings.aging_ms}-{int(settings.paused)}"
