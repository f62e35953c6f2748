"""What a batch did to a queue's tasks, told as data: whoever counts does it once that is applied.

Outcomes do not say it: a repeated submit is answered like the first, and an expiry answers nobody.
It is kept per queue and added up on the way, since a batch moves hundreds of tasks.
"""

from __future__ import annotations

from collections import defaultdict

from tq.v1 import task_pb2
from tq_cluster.core.model import states

Move = tuple[int, states.State, states.State]
"""The digest of a task's type, where it was (NONE: it is new) and where it came."""


class Tally:
    """The tasks of one queue that one batch moved."""

    __slots__ = (
        "attempts",
        "dead_letters",
        "examples",
        "lasted_ms",
        "leases_expired",
        "moves",
        "queue",
        "waited_ms",
    )

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.moves: dict[Move, int] = {}
        """How many tasks made each move."""
        self.examples: dict[int, int] = {}
        """The number of a task of each type, by the type's digest: its spec has the name."""
        self.waited_ms: list[int] = []
        """Of each task leased: for how long it had been due."""
        self.lasted_ms: dict[states.State, list[int]] = defaultdict(list)
        """Of each task that came to its end, by what end: the time since it was submitted."""
        self.attempts: list[int] = []
        """Of each task completed or failed: how many attempts it took."""
        self.dead_letters: dict[task_pb2.FailureReason.ValueType, int] = {}
        self.leases_expired = 0

    def ended(self, state: states.State, lasted_ms: int, attempts: int) -> None:
        """Note how long a task took to its end, and how many attempts."""
        self.lasted_ms[state].append(lasted_ms)
        if state != states.CANCELLED:
            self.attempts.append(attempts)

    def died(self, reason: task_pb2.FailureReason.ValueType) -> None:
        """Count a dead letter."""
        self.dead_letters[reason] = self.dead_letters.get(reason, 0) + 1
