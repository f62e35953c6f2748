"""The moves of a queue's tasks in a batch, as data for metrics once the batch is applied.

Outcomes do not show them: a repeated submit is answered like the first, and an expiry has no
caller. They are summed per queue during the batch, since a batch moves hundreds of tasks.
"""

from __future__ import annotations

from collections import defaultdict

from tq.v1 import task_pb2
from tq_cluster.core.model import states

Move = tuple[int, states.State, states.State]
"""The digest of a task's type, its state before (NONE: it is new) and its state after."""


class Tally:
    """The tasks of one queue that one batch moved."""

    __slots__ = (
        "attempts",
        "dead_letters",
        "examples",
        "lasted_ms",
        "leases_expired",
        "moves",
        "namespace",
        "queue",
        "waited_ms",
    )

    def __init__(self, namespace: int, queue: str) -> None:
        self.namespace = namespace
        self.queue = queue
        self.moves: dict[Move, int] = {}
        """The number of tasks that made each move."""
        self.examples: dict[int, int] = {}
        """The number of a task of each type, by the type's digest: its spec has the name."""
        self.waited_ms: list[int] = []
        """For each task leased, how long it had been due, in ms."""
        self.lasted_ms: dict[states.State, list[int]] = defaultdict(list)
        """For each task that ended, by its terminal state: the time since its submission, in ms."""
        self.attempts: list[int] = []
        """For each task completed or failed, the number of its attempts."""
        self.dead_letters: dict[task_pb2.FailureReason.ValueType, int] = {}
        self.leases_expired = 0

    def ended(self, state: states.State, lasted_ms: int, attempts: int) -> None:
        """Record how long a task took until its end, and how many attempts."""
        self.lasted_ms[state].append(lasted_ms)
        if state != states.CANCELLED:
            self.attempts.append(attempts)

    def died(self, reason: task_pb2.FailureReason.ValueType) -> None:
        """Count a dead letter."""
        self.dead_letters[reason] = self.dead_letters.get(reason, 0) + 1
