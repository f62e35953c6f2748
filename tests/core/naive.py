"""A task queue simple enough to check by eye: every operation scans a list of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

BACKOFF_MS = 100
GIVE_UP_AFTER_MS = 1_000
"""The back-off after a task's first attempt; it doubles after each further one."""

TERMINAL = ("COMPLETED", "FAILED", "CANCELLED")
WAITING = ("BLOCKED", "SCHEDULED", "PENDING", "RETRYING")
PUT_OFF_MS = 3_600_000
"""How long a task that another needs is kept beyond its retention, each time it is looked at."""


@dataclass
class NaiveEdge:
    """One dependency of a task."""

    parent: NaiveTask
    condition: str = "COMPLETED"
    otherwise: str = "FAIL"
    status: str = "OPEN"
    redrives: int = 0
    """How often the parent had been redriven when the status was found."""

    def found(self) -> str:
        """What the dependency is as the parent stands."""
        if self.parent.state not in TERMINAL:
            return "OPEN"
        if self.condition == "ENDED":
            return "HOLDS"
        completed = self.parent.state == "COMPLETED" or self.parent.why == "SKIPPED"
        return "HOLDS" if completed == (self.condition == "COMPLETED") else "BROKEN"

    @property
    def after_failure(self) -> bool:
        """Whether the parent's failure may start or skip the task."""
        return self.condition != "COMPLETED" or self.otherwise == "SKIP"


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
    edges: list[NaiveEdge] = field(default_factory=list)
    need: int = 0
    state: str = "PENDING"
    failure: str = ""
    why: str = ""
    """Why it is CANCELLED."""
    ended_by: str = ""
    let_go: bool = False
    """Whether its failure has started or skipped another task."""
    attempts: int = 0
    token: int = 0
    cancel_requested: bool = False
    unfit_since_ms: int | None = None
    finished_ms: int = 0
    retire_ms: int = 0
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
        self.changed: list[tuple[NaiveTask, int]] = []
        """Tasks that have ended or were redriven, whose dependents were not told yet, and how often
        they had been redriven by then."""
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
        for edge in task.edges:
            edge.status, edge.redrives = edge.found(), edge.parent.redrives
        if self.holding(task) < task.need:
            task.state = "BLOCKED"
        if task.state == "BLOCKED" and self.hopeless(task):
            broken = self.what_broke_it(task)
            assert broken is not None
            self.give_up(task, broken)
        self.mark_parents(task)
        return True

    # ---------------------------------------------------------------- dependencies

    def holding(self, task: NaiveTask) -> int:
        return sum(edge.status == "HOLDS" for edge in task.edges)

    def hopeless(self, task: NaiveTask) -> bool:
        return sum(edge.status != "BROKEN" for edge in task.edges) < task.need

    def give_up(self, task: NaiveTask, edge: NaiveEdge) -> None:
        task.ended_by = edge.parent.id
        if edge.otherwise == "SKIP":
            self.finish(task, "CANCELLED", why="SKIPPED")
        elif edge.parent.state == "CANCELLED" and edge.parent.why != "SKIPPED":
            self.finish(task, "CANCELLED", why="DEPENDENCY")
        else:
            self.finish(task, "FAILED", "DEPENDENCY")

    def dependents(self, parent: NaiveTask) -> list[tuple[NaiveTask, NaiveEdge]]:
        """In the order in which they are told."""
        found = [
            (task, edge) for task in self.tasks for edge in task.edges if edge.parent is parent
        ]
        return sorted(found, key=lambda each: (each[1].after_failure, each[0].place))

    def tell_dependents(self) -> None:
        """Bring all tasks in line with those that they depend on, one change after the other."""
        while self.changed:
            parent, redrives = self.changed.pop(0)
            if parent.redrives != redrives or parent not in self.tasks:
                continue
            returning = self.returning(parent)
            if returning is not None and self.take_back(returning):
                self.changed.append((parent, redrives))
                continue
            for task, edge in self.dependents(parent):
                if task.state == "BLOCKED":
                    edge.status, edge.redrives = edge.found(), parent.redrives
                    self.go_on(task)
                elif (
                    task.failure == "DEPENDENCY"
                    and (task.ended_by == parent.id or task.need < len(task.edges))
                    and edge.found() != "BROKEN"
                    and not task.let_go
                ):
                    self.take_back(task)

    def returning(self, task: NaiveTask) -> NaiveTask | None:
        """The task at or above this one that is taken back soon with its parent."""
        while task.failure == "DEPENDENCY" and not task.let_go:
            above = self.find(task.ended_by)
            if above is None:
                return None
            if any(edge.parent is above and edge.found() != "BROKEN" for edge in task.edges):
                return task
            task = above
        return None

    def go_on(self, task: NaiveTask) -> None:
        """Let a BLOCKED task start, end, or wait on."""
        if self.holding(task) >= task.need and not any(edge.after_failure for edge in task.edges):
            self.release(task)
        elif self.holding(task) >= task.need or self.hopeless(task):
            self.look_at_all(task)
            if self.holding(task) >= task.need:
                self.release(task)
            elif self.hopeless(task):
                broken = self.what_broke_it(task)
                if broken is not None:
                    self.give_up(task, broken)
        self.mark_parents(task)

    def release(self, task: NaiveTask) -> None:
        task.state = "SCHEDULED" if task.due_ms > self.now_ms else "PENDING"
        task.due_ms = max(task.due_ms, self.now_ms)

    def look_at_all(self, task: NaiveTask) -> None:
        for edge in task.edges:
            if edge.parent in self.tasks:
                edge.status, edge.redrives = edge.found(), edge.parent.redrives
            else:
                edge.status = "BROKEN" if edge.condition == "COMPLETED" else "HOLDS"

    def what_broke_it(self, task: NaiveTask) -> NaiveEdge | None:
        """The end after which too few were left."""
        broken = [edge for edge in task.edges if edge.found() == "BROKEN"]
        broken = [edge for edge in broken if edge.parent in self.tasks]
        broken.sort(key=lambda edge: (edge.parent.finished_ms, edge.parent.place))
        gone = [edge for edge in task.edges if edge.parent not in self.tasks]
        gone = [edge for edge in gone if edge.condition == "COMPLETED"]
        spare = max(0, len(task.edges) - task.need - len(gone))
        return broken[spare] if len(broken) > spare else None

    def take_back(self, task: NaiveTask) -> bool:
        """Let a failed task wait again, if it would not fail through the same parent."""
        before = [(edge.status, edge.redrives) for edge in task.edges]
        self.look_at_all(task)
        broken = self.what_broke_it(task) if self.hopeless(task) else None
        if self.hopeless(task) and (broken is None or broken.parent.id == task.ended_by):
            for edge, (status, redrives) in zip(task.edges, before, strict=True):
                edge.status, edge.redrives = status, redrives
            return False
        self.reopen(task, "BLOCKED")
        if broken is not None:
            self.give_up(task, broken)
        elif self.holding(task) >= task.need:
            self.release(task)
        self.mark_parents(task)
        return True

    def mark_parents(self, task: NaiveTask) -> None:
        """Note which failures have started or skipped a task."""
        skipped = task.why == "SKIPPED"
        started = task.state not in ("BLOCKED", *TERMINAL)
        for edge in task.edges if skipped or started else ():
            cause = "BROKEN" if skipped else "HOLDS"
            if edge.found() == cause and (skipped or edge.condition != "COMPLETED"):
                self.mark(edge.parent)

    def mark(self, failed: NaiveTask) -> None:
        while failed.state == "FAILED" and failed in self.tasks and not failed.let_go:
            failed.let_go = True
            above = self.find(failed.ended_by)
            if failed.failure != "DEPENDENCY" or above is None:
                return
            failed = above

    def may_be_redriven(self, task: NaiveTask, *, force: bool = False) -> bool:
        if task.failure == "DEPENDENCY":
            edges = [(edge.status, edge.redrives) for edge in task.edges]
            self.look_at_all(task)
            fails_again = self.hopeless(task)
            for edge, (status, redrives) in zip(task.edges, edges, strict=True):
                edge.status, edge.redrives = status, redrives
            if fails_again:
                return False
        return force or not task.let_go

    def needed(self, task: NaiveTask, *, is_dead: bool = False) -> bool:
        return any(
            dependent.state not in TERMINAL or (dependent.failure == "DEPENDENCY" and not is_dead)
            for dependent, _ in self.dependents(task)
        )

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
        if task.failure == "DEPENDENCY":
            self.take_back(task)
            return
        task.due_ms = self.now_ms
        self.reopen(task, "PENDING")

    def reopen(self, task: NaiveTask, state: str) -> None:
        task.state = state
        task.failure = task.ended_by = ""
        task.let_go = False
        task.attempts = 0
        task.unfit_since_ms = None
        task.redrives += 1
        if task.expire_ms is not None and task.expire_ms <= self.now_ms:
            task.expire_ms = None
        self.changed.append((task, task.redrives))

    def finish(
        self, task: NaiveTask, state: str, failure: str = "", why: str = "REQUESTED"
    ) -> None:
        self.changed.append((task, task.redrives))
        task.why = why if state == "CANCELLED" else ""
        task.retire_ms = self.now_ms + task.retention_ms
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
                elif task.due_ms <= self.now_ms and task.state != "BLOCKED":
                    task.state = "PENDING"
        self.tell_dependents()
        while (due := self.first_retired()) is not None:
            if self.needed(due):
                due.retire_ms = self.now_ms + PUT_OFF_MS
            else:
                self.remove(due)

    def first_retired(self) -> NaiveTask | None:
        ended = [task for task in self.tasks if task.state in TERMINAL]
        due = [task for task in ended if task.retire_ms <= self.now_ms]
        return min(due, key=lambda task: (task.retire_ms, task.place), default=None)

    def remove(self, task: NaiveTask) -> None:
        """Remove a task; those that it needed are looked at again, if they are past their time."""
        self.tasks.remove(task)
        for edge in task.edges:
            parent = edge.parent
            if parent.state in TERMINAL and parent.finished_ms + parent.retention_ms <= self.now_ms:
                parent.retire_ms = min(parent.retire_ms, self.now_ms)
