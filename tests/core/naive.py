"""A task queue simple enough to check by eye: every operation scans a list of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

BACKOFF_MS = 100
GIVE_UP_AFTER_MS = 1_000
"""The back-off after a task's first attempt; it doubles after each further one."""

TERMINAL = ("COMPLETED", "FAILED", "CANCELLED")
WAITING = ("SCHEDULED", "PENDING", "RETRYING")


@dataclass
class NaiveTask:
    """One task, in the words of the API."""

    id: str
    priority: int
    due_ms: int
    max_attempts: int
    expire_ms: int | None
    retention_ms: int
    type: str = "work"
    state: str = "PENDING"
    failure: str = ""
    attempts: int = 0
    token: int = 0
    cancel_requested: bool = False
    unfit_since_ms: int | None = None
    finished_ms: int = 0
    redrives: int = 0
    place: int = 0
    """Its place in the order of all submits."""
    recorded: dict[int, str] = field(default_factory=dict)
    """What each token's report led to."""


class NaiveQueue:
    """One queue; the test sets `now_ms`."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.tasks: list[NaiveTask] = []
        self.submitted = 0
        self.entries: Counter[str] = Counter()
        """How often a task entered each state."""
        self.paused = False
        self.aging_ms: int | None = None

    def find(self, task_id: str) -> NaiveTask | None:
        return next((task for task in self.tasks if task.id == task_id), None)

    def count(self, state: str) -> int:
        return sum(task.state == state for task in self.tasks)

    def submit(self, task: NaiveTask) -> bool:
        if self.find(task.id) is not None:
            return False
        task.due_ms = max(task.due_ms, self.now_ms)
        task.state = "SCHEDULED" if task.due_ms > self.now_ms else "PENDING"
        self.submitted += 1
        task.place = self.submitted
        self.tasks.append(task)
        return True

    def next_up(
        self, most: int, types: Sequence[str] = (), except_types: Sequence[str] = ()
    ) -> list[NaiveTask]:
        """The tasks that a claim must get, limited to some types or to all but some."""
        if self.paused:
            return []
        ready = [
            task
            for task in self.tasks
            if task.state == "PENDING"
            and (not types or task.type in types)
            and task.type not in except_types
        ]
        if self.aging_ms is None:
            ready.sort(key=lambda task: (-task.priority, task.due_ms))
        else:
            step_ms = self.aging_ms
            ready.sort(key=lambda task: task.due_ms - task.priority * step_ms)
        return ready[:most]

    def rank(self, task: NaiveTask) -> tuple[int, int]:
        """The order of a task among those of other queues."""
        step_ms = self.aging_ms or 1 << 48
        return task.due_ms - task.priority * step_ms, task.place

    def start(self, task: NaiveTask, token: int) -> None:
        task.state = "RUNNING"
        self.entries["RUNNING"] += 1
        task.token = token
        task.attempts += 1

    def report(
        self, task_id: str, token: int, kind: str, retry_after_ms: int
    ) -> tuple[str, str | None]:
        """Return the status of a report, and the state that it tells."""
        task = self.find(task_id)
        if task is None:
            return "NOT_FOUND", None
        if task.state != "RUNNING" or task.token != token:
            if token in task.recorded:
                return "ALREADY_RECORDED", task.recorded[token]
            return "LEASE_LOST", task.state
        status = "RECORDED"
        if kind == "complete":
            self.finish(task, "COMPLETED")
        elif task.cancel_requested:
            status = "CANCELLED"
            self.finish(task, "CANCELLED")
        elif kind == "release":
            task.attempts -= 1
            task.state = "PENDING"
        elif kind == "unfit":
            self.release_unfit(task, retry_after_ms)
        elif kind == "fail for good":
            self.finish(task, "FAILED", "PERMANENT_ERROR")
        else:
            self.retry(task, retry_after_ms)
        task.recorded[token] = task.state
        return status, task.state

    def release_unfit(self, task: NaiveTask, pause_ms: int) -> None:
        """Release a task that its worker cannot run for a while, or, after too long, fail it."""
        if task.unfit_since_ms is None:
            task.unfit_since_ms = self.now_ms
        if self.now_ms - task.unfit_since_ms >= GIVE_UP_AFTER_MS:
            self.finish(task, "FAILED", "PERMANENT_ERROR")
            return
        task.attempts -= 1
        if pause_ms:
            self.wait(task, pause_ms)
        else:
            task.state = "PENDING"

    def wait(self, task: NaiveTask, after_ms: int) -> None:
        task.state = "RETRYING"
        self.entries["RETRYING"] += 1
        task.due_ms = self.now_ms + after_ms

    def expire(self, task: NaiveTask) -> None:
        if task.cancel_requested:
            self.finish(task, "CANCELLED")
        else:
            self.retry(task, BACKOFF_MS * 2 ** (task.attempts - 1))

    def retry(self, task: NaiveTask, after_ms: int) -> None:
        task.unfit_since_ms = None
        if task.attempts >= task.max_attempts:
            self.finish(task, "FAILED", "ATTEMPTS_EXHAUSTED")
        else:
            self.wait(task, after_ms)

    def cancel(self, task_id: str) -> str | None:
        task = self.find(task_id)
        if task is None:
            return None
        if task.state in WAITING:
            self.finish(task, "CANCELLED")
        elif task.state == "RUNNING":
            task.cancel_requested = True
        return task.state

    def purge(self, most: int, last: int) -> int:
        """Cancel waiting tasks among the first ``last`` that were ever submitted."""
        purged = self.waiting(last)[:most]
        for task in purged:
            self.finish(task, "CANCELLED")
        return len(purged)

    def waiting(self, last: int) -> list[NaiveTask]:
        """The waiting tasks among the first ``last``, in the order in which they are purged."""
        return [
            task
            for state in WAITING
            for task in self.tasks
            if task.state == state and task.place <= last
        ]

    def redrive(self, task: NaiveTask) -> None:
        task.state = "PENDING"
        task.failure = ""
        task.attempts = 0
        task.unfit_since_ms = None
        task.due_ms = self.now_ms
        task.redrives += 1
        if task.expire_ms is not None and task.expire_ms <= self.now_ms:
            task.expire_ms = None

    def finish(self, task: NaiveTask, state: str, failure: str = "") -> None:
        task.state = state
        self.entries[state] += 1
        task.failure = failure
        task.cancel_requested = False
        task.finished_ms = self.now_ms

    def settle(self) -> None:
        """Apply the changes that are due by time alone."""
        for task in self.tasks:
            if task.state in WAITING:
                if task.expire_ms is not None and task.expire_ms <= self.now_ms:
                    self.finish(task, "FAILED", "EXPIRED")
                elif task.due_ms <= self.now_ms:
                    task.state = "PENDING"
        self.tasks = [
            task
            for task in self.tasks
            if task.state not in TERMINAL or task.finished_ms + task.retention_ms > self.now_ms
        ]
