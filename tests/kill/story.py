"""Histories written by hand, to test the checker of the real ones."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration

from chaos.history.calls import Ending
from chaos.history.loss import Loss
from chaos.history.record import LEDGER_LABEL, Ledger, ledger_label
from tq.v1 import queue_service_pb2, task_pb2, worker_service_pb2

Report = worker_service_pb2.ReportResult
Heartbeat = worker_service_pb2.HeartbeatResult
RECORDED = Report.STATUS_RECORDED
ALREADY_RECORDED = Report.STATUS_ALREADY_RECORDED
LEASE_LOST = Report.STATUS_LEASE_LOST
CANCEL_WON = Report.STATUS_CANCELLED
MARKED = Heartbeat.STATUS_CANCEL_REQUESTED
PENDING = task_pb2.TASK_STATE_PENDING
RUNNING = task_pb2.TASK_STATE_RUNNING
RETRYING = task_pb2.TASK_STATE_RETRYING
COMPLETED = task_pb2.TASK_STATE_COMPLETED
FAILED = task_pb2.TASK_STATE_FAILED
CANCELLED = task_pb2.TASK_STATE_CANCELLED
DONE = task_pb2.Attempt.END_COMPLETED
EXPIRED = task_pb2.Attempt.END_LEASE_EXPIRED
LEFT_OFF = task_pb2.Attempt.END_FAILED
RELEASED = task_pb2.Attempt.END_RELEASED
STOPPED = task_pb2.Attempt.END_CANCELLED
HELD = task_pb2.Attempt.END_RUNNING
"""How an attempt ended; ``HELD``: it has not ended."""

Span = tuple[float, float | None]
"""When a call began and was answered, in seconds; None: never answered."""


class Story:
    """A ledger that a test fills call by call, at instants of its choice."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self.ledger = Ledger(now_s=lambda: self._now_s)

    def submit(self, at: Span, *ids: str, request: str = "r", tasks: int = 1) -> None:
        self._now_s = at[0]
        call = self.ledger.submit("client", request, len(ids) or tasks)
        if self._answered(at):
            self.ledger.submitted(call, ids)

    def refuse_submit(self, at: Span, request: str = "r") -> None:
        self._now_s = at[0]
        call = self.ledger.submit("client", request, 1)
        if self._answered(at):
            self.ledger.refused(call, "NO_LEADER")

    def claim(
        self, at: Span, worker: str, token: int, *, task: str = "t", lease_s: int = 10
    ) -> None:
        self._now_s = at[0]
        call = self.ledger.claim(worker, f"claim-{token}")
        if self._answered(at):
            granted = worker_service_pb2.ClaimedTask(
                spec=task_pb2.TaskSpec(task_id=task),
                token=token,
                attempt=1,
                lease=Duration(seconds=lease_s),
            )
            self.ledger.claimed(call, worker_service_pb2.ClaimResponse(tasks=[granted]))

    def claim_of_what_is_lost(self, at: Span, worker: str, *, task: str = "t") -> None:
        """Claim; the answer says that the task was granted, and that the lease is over already."""
        self._now_s = at[0]
        call = self.ledger.claim(worker, f"lost-{worker}")
        if self._answered(at):
            self.ledger.claimed(call, worker_service_pb2.ClaimResponse(lost_task_ids=[task]))

    def heartbeat(
        self,
        at: Span,
        worker: str,
        token: int,
        status: Heartbeat.Status.ValueType = Heartbeat.STATUS_RENEWED,
        *,
        lease_s: int = 10,
    ) -> None:
        self._now_s = at[0]
        call = self.ledger.heartbeat(worker)
        held = worker_service_pb2.HeldLease(task_id="t", token=token)
        result = Heartbeat(task_id="t", status=status, lease=Duration(seconds=lease_s))
        if self._answered(at):
            self.ledger.renewed(
                call,
                worker_service_pb2.HeartbeatRequest(worker_id=worker, leases=[held]),
                worker_service_pb2.HeartbeatResponse(results=[result]),
            )

    def report(
        self,
        at: Span,
        worker: str,
        token: int,
        status: Report.Status.ValueType = RECORDED,
        *,
        ending: Ending = Ending.COMPLETE,
        result: bytes = b"done",
        state: task_pb2.TaskState.ValueType = COMPLETED,
    ) -> None:
        self._now_s = at[0]
        call = self.ledger.report(worker, "t", token, ending, result)
        if self._answered(at):
            self.ledger.reported(call, Report(task_id="t", status=status, state=state))

    def read(
        self,
        at: Span,
        state: task_pb2.TaskState.ValueType | None,
        attempts: Mapping[int, task_pb2.Attempt.End.ValueType] | None = None,
        *,
        result: bytes = b"done",
        cancel_requested: bool = False,
        redrives: int = 0,
        queue: str = "",
    ) -> None:
        """Read task t; ``state`` None: not found."""
        self._now_s = at[0]
        call = self.ledger.read("reader", "t")
        task = None
        if state is not None:
            task = task_pb2.Task(
                spec=task_pb2.TaskSpec(task_id="t", queue=queue),
                state=state,
                result=result,
                cancel_requested=cancel_requested,
                redrives=redrives,
            )
            for token, end in (attempts or {}).items():
                task.attempts.add(token=token, end=end)
        if self._answered(at):
            self.ledger.found(call, task)

    def refuse_read(self, at: Span) -> None:
        """Read task t; every broker refuses."""
        self._now_s = at[0]
        call = self.ledger.read("reader", "t")
        if self._answered(at):
            self.ledger.refused(call, "NO_LEADER")

    def cancel(
        self, at: Span, state: task_pb2.TaskState.ValueType | None, *, request: str = "c"
    ) -> None:
        """Cancel task t; ``state`` None: there is none."""
        self._now_s = at[0]
        call = self.ledger.cancel("operator", request, "t")
        if self._answered(at):
            self.ledger.cancelled(call, state)

    def redrive(self, at: Span, count: int, *, request: str = "d", queue: str = "") -> None:
        """Redrive task t, or a queue."""
        self._now_s = at[0]
        task = "" if queue else "t"
        call = self.ledger.redrive("operator", request, task_id=task, queue=queue)
        if self._answered(at):
            self.ledger.changed(call, count)

    def delete(self, at: Span, count: int, *, request: str = "x") -> None:
        """Delete the dead letter t."""
        self._now_s = at[0]
        call = self.ledger.delete("operator", request, task_id="t")
        if self._answered(at):
            self.ledger.changed(call, count)

    def purge(self, at: Span, count: int, *, queue: str = "q", request: str = "p") -> None:
        self._now_s = at[0]
        call = self.ledger.purge("operator", request, queue)
        if self._answered(at):
            self.ledger.changed(call, count)

    def pause(self, at: Span, *, paused: bool, queue: str = "q") -> None:
        self._now_s = at[0]
        call = self.ledger.pause("operator", queue, paused=paused)
        if self._answered(at):
            self.ledger.configured(call)

    def lose(self, certain_s: float, at: tuple[float, float], *, quarantined: bool = True) -> None:
        """Lose the cluster and what it acknowledged after ``certain_s``; a new one replaces it."""
        gone_s, back_s = at
        self.ledger.lost(
            Loss(certain_s=certain_s, gone_s=gone_s, back_s=back_s, quarantined=quarantined)
        )

    def counted(self, queue: str, **counts: int) -> None:
        """End with what a queue counts; ``ever_...`` are its totals."""
        stats = queue_service_pb2.QueueStats(queue=queue)
        for name, count in counts.items():
            total = name.startswith("ever_")
            setattr(stats.totals if total else stats, name.removeprefix("ever_"), count)
        self.ledger.counted([stats])

    def listed_in(self, queue: str, *tasks: tuple[str, str, task_pb2.TaskState.ValueType]) -> None:
        """End with a listing of (task id, request id/item, state)."""
        self.ledger.listed(
            task_pb2.Task(
                spec=task_pb2.TaskSpec(task_id=task_id, queue=queue, labels={LEDGER_LABEL: label}),
                state=state,
            )
            for task_id, label, state in tasks
        )

    def listed(self, *labels_of_ids: tuple[str, str]) -> None:
        """End with a listing of (task id, request id/item)."""
        self.ledger.listed(
            task_pb2.Task(spec=task_pb2.TaskSpec(task_id=task_id, labels={LEDGER_LABEL: label}))
            for task_id, label in labels_of_ids
        )

    def _answered(self, at: Span) -> bool:
        if at[1] is None:
            return False
        self._now_s = at[1]
        return True


def one_task_submitted() -> Story:
    """A history of one task ``t``, submitted within the first second."""
    story = Story()
    story.submit((0, 1), "t")
    return story


def one_dead_letter() -> Story:
    """A history of one task whose only attempt, token 7, failed for good within four seconds."""
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.report((3, 4), "w1", 7, ending=Ending.FAIL, state=FAILED)
    return story


def one_task_done() -> Story:
    """A history of one task that is submitted, claimed, completed and read without any fault."""
    story = one_task_submitted()
    story.claim((1, 2), "w1", 7)
    story.heartbeat((3, 4), "w1", 7)
    story.report((5, 6), "w1", 7)
    story.read((8, 9), COMPLETED, {7: DONE})
    story.listed(("t", ledger_label("r", 0)))
    return story
