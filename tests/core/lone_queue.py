"""A queue on one node without a log: it decides, applies what was decided, and keeps the time."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tq.internal.v1 import log_pb2, state_pb2
from tq.v1 import (
    errors_pb2,
    queue_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_service_pb2,
)
from tq_cluster.core.decide import Draw, decide
from tq_cluster.core.invariants import violations
from tq_cluster.core.model.events import TaskEvent
from tq_cluster.core.model.limits import DEFAULT_LIMITS, Limits
from tq_cluster.core.model.operations import (
    Caller,
    Cancel,
    Claim,
    ConfigureQueue,
    Continue,
    Decision,
    DeleteDeadLetters,
    Done,
    ExpireLeases,
    ForgetRequests,
    Lease,
    MakeDue,
    Operation,
    Outcome,
    PurgeQueue,
    Redrive,
    Refused,
    RemoveRetired,
    Replied,
    Report,
    Submit,
    SubmitTogether,
)
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, FencingToken, TimestampMs
from tq_cluster.core.reads import queries
from tq_cluster.core.reads.steps import in_one_go
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.storage.environment import EMPTY
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.storage.store import Store

START_MS = 1_760_000_000_000
GO_ON_MAX = 2_000

Claimed = worker_service_pb2.ClaimedTask
ReportResult = worker_service_pb2.ReportResult


def spec(**fields: object) -> task_pb2.TaskSpec:
    """A task to submit: by default of type "work" in queue "default"."""
    chosen: dict[str, object] = {"queue": "default", "type": "work"} | fields
    return task_pb2.TaskSpec(**chosen)  # type: ignore[arg-type]  # a protobuf message checks them itself


def at(ms: int) -> Timestamp:
    """An instant so many milliseconds after the tests' clocks start."""
    return instant(START_MS + ms)


def instant(ms: int) -> Timestamp:
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def span(ms: int) -> Duration:
    return Duration(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


class LoneQueue:
    """Time stands still unless a test moves it; after every decision the whole state is checked."""

    def __init__(
        self,
        *,
        limits: Limits = DEFAULT_LIMITS,
        draw: Draw | None = None,
        audited: bool = True,
        store: MemoryStore | Store | None = None,
        tell_events: bool = False,
        by_type: bool = True,
        namespace: int = DEFAULT_NAMESPACE,
    ) -> None:
        self.namespace = namespace
        self.caller = Caller(namespace=namespace)
        self.store = store or MemoryStore()
        self.now_ms = START_MS
        self.stepped_ms = 0
        self.leases: dict[FencingToken, Lease] = {}
        """The live leases, as a leader would know them."""
        self.entries: list[bytes] = []
        self.events: list[TaskEvent] = []
        """The events of tasks, if they were requested."""
        self._tell_events = tell_events
        self._limits = limits
        self._draw = draw or random.Random(0)
        self._audited = audited
        if self.store.applied == EMPTY and by_type:
            # As after a first claim of certain types before all tasks.
            kept = [tables.READY_BY_TYPE]
            counters = state_pb2.CountersRow(kept_tables=kept, filled_tables=kept)
            self.overwrite(tables.META, tables.COUNTERS_KEY, counters.SerializeToString())

    # ---------------------------------------------------------------- deciding

    def decide(self, *operations: Operation) -> Decision:
        """Decide a batch and apply it."""
        now_ms = TimestampMs(self.now_ms)
        workspace = self.store.workspace()
        decision = decide(
            operations,
            now_ms,
            workspace,
            self._draw,
            self._limits,
            stepped_ms=self.stepped_ms,
            tell_events=self._tell_events,
        )
        changes = workspace.tables()
        if changes:
            applied = self.store.applied
            entry = log_pb2.Entry(
                format=1,
                decided_term=1,
                base_index=applied.index,
                now_ms=now_ms,
                tables=changes,
            ).SerializeToString(deterministic=True)
            assert self.store.apply(applied.index + 1, 1, entry)
            self.entries.append(entry)
        for token in decision.wakeups.ended:
            del self.leases[token]
        for lease in decision.wakeups.granted:
            self.leases[lease.token] = lease
        assert (decision.wakeups.events is not None) == self._tell_events
        self.events += decision.wakeups.events or []
        if self._audited:
            assert violations(self.scope()) == []
        return decision

    def outcome(self, operation: Operation) -> Outcome:
        return self.decide(operation).outcomes[0]

    def changed_by(self, operation: Operation) -> bool:
        """Whether deciding ``operation`` leads to an entry."""
        before = len(self.entries)
        self.decide(operation)
        return len(self.entries) > before

    def overwrite(self, table: int, key: bytes, value: bytes) -> None:
        """Overwrite a row, as another version might have left it."""
        workspace = self.store.workspace()
        workspace.put(table, key, value)
        changes = workspace.tables()
        index = self.store.applied.index
        entry = log_pb2.Entry(format=1, decided_term=1, base_index=index, tables=changes)
        assert self.store.apply(index + 1, 1, entry.SerializeToString())

    # ---------------------------------------------------------------- callers

    def submit(
        self,
        *specs: task_pb2.TaskSpec,
        request_id: str = "",
        retry_age_ms: int | None = None,
        seed: str = "seed",
        caller: Caller | None = None,
    ) -> Outcome:
        request = task_service_pb2.SubmitRequest(request_id=request_id, tasks=specs)
        if retry_age_ms is not None:
            request.retry_age.CopyFrom(span(retry_age_ms))
        id_seed = request_id or f"{seed}-{len(self.entries)}"
        return self.outcome(Submit(request=request, id_seed=id_seed, caller=caller or self.caller))

    def submitted(self, *specs: task_pb2.TaskSpec, request_id: str = "") -> list[str]:
        """Submit tasks that are all taken, and return their ids."""
        reply = replied(self.submit(*specs, request_id=request_id), _SubmitResponse)
        assert all(each.HasField("task") for each in reply.results), reply
        return [each.task.task_id for each in reply.results]

    def submit_together(self, *specs: task_pb2.TaskSpec, request_id: str = "") -> Outcome:
        request = task_service_pb2.SubmitTogetherRequest(request_id=request_id, tasks=specs)
        id_seed = request_id or f"together-{len(self.entries)}"
        return self.outcome(SubmitTogether(request=request, id_seed=id_seed, caller=self.caller))

    def submitted_together(self, *specs: task_pb2.TaskSpec, request_id: str = "") -> list[str]:
        """Submit tasks that are taken, all or none, and return their ids."""
        outcome = self.submit_together(*specs, request_id=request_id)
        reply = replied(outcome, task_service_pb2.SubmitTogetherResponse)
        return [each.task_id for each in reply.tasks]

    def claim(
        self,
        most: int = 1,
        *,
        queues: Sequence[str] = ("default",),
        worker: str = "worker",
        lease_ms: int | None = None,
        request_id: str = "",
        retry_age_ms: int | None = None,
        types: Sequence[str] = (),
        except_types: Sequence[str] = (),
    ) -> Outcome:
        request = worker_service_pb2.ClaimRequest(
            worker_id=worker,
            queues=queues,
            max_tasks=most,
            request_id=request_id,
            types=types,
            except_types=except_types,
        )
        if lease_ms is not None:
            request.lease.CopyFrom(span(lease_ms))
        if retry_age_ms is not None:
            request.retry_age.CopyFrom(span(retry_age_ms))
        return self.outcome(Claim(request=request, caller=self.caller))

    def claimed(
        self, most: int = 1, *, queues: Sequence[str] = ("default",), worker: str = "worker"
    ) -> list[Claimed]:
        """Claim, and return what was granted."""
        outcome = self.claim(most, queues=queues, worker=worker)
        return list(replied(outcome, worker_service_pb2.ClaimResponse).tasks)

    def claimed_ids(self, most: int = 1, *, queues: Sequence[str] = ("default",)) -> list[str]:
        return [each.spec.task_id for each in self.claimed(most, queues=queues)]

    def report(self, *reports: worker_service_pb2.TaskReport) -> list[ReportResult]:
        request = worker_service_pb2.ReportRequest(worker_id="worker", reports=reports)
        outcome = self.outcome(Report(request=request, caller=self.caller))
        return list(replied(outcome, worker_service_pb2.ReportResponse).results)

    def complete(
        self, task: Claimed, result: bytes = b"", submit: Sequence[task_pb2.TaskSpec] = ()
    ) -> ReportResult:
        completion = worker_service_pb2.Completion(result=result, submit=submit)
        return self.report(report_of(task, complete=completion))[0]

    def fail(
        self,
        task: Claimed,
        error: str = "broke",
        *,
        permanent: bool = False,
        retry_after_ms: int | None = None,
    ) -> ReportResult:
        failure = worker_service_pb2.Failure(error=error, permanent=permanent)
        if retry_after_ms is not None:
            failure.retry_after.CopyFrom(span(retry_after_ms))
        return self.report(report_of(task, fail=failure))[0]

    def release(self, task: Claimed, reason: str = "shutting down") -> ReportResult:
        return self.report(report_of(task, release=worker_service_pb2.Release(reason=reason)))[0]

    def cancel(self, task_id: str, *, request_id: str = "") -> Outcome:
        request = task_service_pb2.CancelTaskRequest(task_id=task_id, request_id=request_id)
        return self.outcome(Cancel(request=request, caller=self.caller))

    def configure(self, queue: str = "default", **settings: object) -> Outcome:
        chosen = queue_service_pb2.QueueSettings(**settings)  # type: ignore[arg-type]  # as above
        request = queue_service_pb2.ConfigureQueueRequest(queue=queue, settings=chosen)
        return self.outcome(ConfigureQueue(request=request, caller=self.caller))

    def redrive(
        self,
        *task_ids: str,
        queue: str = "",
        max_tasks: int = 0,
        request_id: str = "",
        page_token: str = "",
        force: bool = False,
        chosen: queue_service_pb2.DeadLetterFilter | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        request = queue_service_pb2.RedriveRequest(
            force=force,
            task_ids=task_ids,
            queue=queue,
            max_tasks=max_tasks,
            request_id=request_id,
            page_token=page_token,
            filter=chosen,
            dry_run=dry_run,
        )
        return self.outcome(Redrive(request=request, caller=self.caller))

    def delete(
        self,
        *task_ids: str,
        queue: str = "",
        max_tasks: int = 0,
        request_id: str = "",
        page_token: str = "",
        chosen: queue_service_pb2.DeadLetterFilter | None = None,
        dry_run: bool = False,
    ) -> Outcome:
        request = queue_service_pb2.DeleteDeadLettersRequest(
            task_ids=task_ids,
            queue=queue,
            max_tasks=max_tasks,
            request_id=request_id,
            page_token=page_token,
            filter=chosen,
            dry_run=dry_run,
        )
        return self.outcome(DeleteDeadLetters(request=request, caller=self.caller))

    def purge(
        self,
        queue: str = "default",
        *,
        max_tasks: int = 0,
        page_token: str = "",
        request_id: str = "",
        at_once: bool = False,
        stop: bool = False,
    ) -> Outcome:
        request = queue_service_pb2.PurgeQueueRequest(
            queue=queue,
            max_tasks=max_tasks,
            page_token=page_token,
            request_id=request_id,
            at_once=at_once,
            stop=stop,
        )
        return self.outcome(PurgeQueue(request=request, caller=self.caller))

    # ---------------------------------------------------------------- time

    def wait(self, ms: int) -> None:
        """Let time pass, and apply what is due by then."""
        self.now_ms += ms
        self.make_due()

    def make_due(self) -> None:
        while (due_ms := queries.next_due_ms(self.scope())) is not None:
            if due_ms > self.now_ms:
                return
            self.decide(MakeDue(caller=self.caller))

    def expire(self, *tasks: Claimed) -> None:
        """Let the leases of these tasks run out."""
        leases = [self.leases[FencingToken(task.token)] for task in tasks]
        self.decide(ExpireLeases(leases=leases, caller=self.caller))

    def remove_retired(self, rows_max: int = 200) -> None:
        while queries.first_retired(self.scope(), self.now_ms) is not None:
            self.decide(RemoveRetired(rows_max=rows_max, caller=self.caller))

    def go_on(self, items_max: int = 200) -> None:
        """Do what earlier operations set off and left."""
        for _ in range(GO_ON_MAX):
            outcome = self.outcome(Continue(items_max=items_max, caller=self.caller))
            assert isinstance(outcome, Done)
            if not outcome.more:
                return
        raise AssertionError("what goes on has no end")

    def forget_requests(self, rows_max: int = 200) -> None:
        while (forgotten_ms := queries.next_forgotten_ms(self.scope())) is not None:
            if forgotten_ms > self.now_ms - self.stepped_ms:
                return
            self.decide(ForgetRequests(rows_max=rows_max, caller=self.caller))

    # ---------------------------------------------------------------- looking

    def scope(self) -> Scope[View]:
        """The namespace's part of the present state."""
        return Scope.of(self.store.view(), self.namespace)

    def task(self, task_id: str) -> task_pb2.Task:
        request = task_service_pb2.GetTaskRequest(task_id=task_id)
        outcome = in_one_go(self.scope(), queries.get_task, request)
        return replied(outcome, task_service_pb2.GetTaskResponse).task

    def state(self, task_id: str) -> str:
        return task_pb2.TaskState.Name(self.task(task_id).state).removeprefix("TASK_STATE_")

    def exists(self, task_id: str) -> bool:
        request = task_service_pb2.GetTaskRequest(task_id=task_id)
        outcome = in_one_go(self.scope(), queries.get_task, request)
        return isinstance(outcome, Replied)

    def stats(self, queue: str = "default") -> queue_service_pb2.QueueStats:
        request = queue_service_pb2.GetQueueStatsRequest(queue=queue)
        outcome = in_one_go(self.scope(), queries.queue_stats, request)
        return replied(outcome, queue_service_pb2.GetQueueStatsResponse).stats

    def heartbeat(self, *tasks: Claimed) -> tuple[list[str], list[FencingToken]]:
        """Return the status of each lease, and the tokens that are to be renewed."""
        held = [
            worker_service_pb2.HeldLease(task_id=task.spec.task_id, token=task.token)
            for task in tasks
        ]
        request = worker_service_pb2.HeartbeatRequest(worker_id="worker", leases=held)
        outcome, live = queries.heartbeat(self.scope(), request)
        results = replied(outcome, worker_service_pb2.HeartbeatResponse).results
        names = worker_service_pb2.HeartbeatResult.Status
        return [names.Name(each.status).removeprefix("STATUS_") for each in results], live


_SubmitResponse = task_service_pb2.SubmitResponse


def report_of(
    task: Claimed,
    *,
    complete: worker_service_pb2.Completion | None = None,
    fail: worker_service_pb2.Failure | None = None,
    release: worker_service_pb2.Release | None = None,
) -> worker_service_pb2.TaskReport:
    return worker_service_pb2.TaskReport(
        task_id=task.spec.task_id,
        token=task.token,
        complete=complete,
        fail=fail,
        release=release,
    )


def status(result: ReportResult) -> str:
    return ReportResult.Status.Name(result.status).removeprefix("STATUS_")


def state_of(result: ReportResult) -> str:
    return task_pb2.TaskState.Name(result.state).removeprefix("TASK_STATE_")


Reply = TypeVar("Reply")


def replied(outcome: Outcome, kind: type[Reply]) -> Reply:
    """The reply of an operation that was honoured."""
    assert isinstance(outcome, Replied), outcome
    assert isinstance(outcome.reply, kind)
    return outcome.reply


def reason(outcome: Outcome) -> str:
    """Why an operation was refused."""
    assert isinstance(outcome, Refused), outcome
    return errors_pb2.ErrorReason.Name(outcome.reason).removeprefix("ERROR_REASON_")
