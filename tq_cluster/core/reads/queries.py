"""Queries: answers from a view, without changes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tq.internal.v1 import state_pb2
from tq.v1 import queue_service_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.kernel import request_ids
from tq_cluster.core.kernel.queue import read_queue
from tq_cluster.core.kernel.refusals import no_such_queue, no_such_task
from tq_cluster.core.kernel.validation import check_count
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import DEFAULT_LIMITS, Limits
from tq_cluster.core.model.operations import Lease, Refused, Replied
from tq_cluster.core.model.proto_time import put_ms
from tq_cluster.core.model.types import (
    DEFAULT_NAMESPACE,
    DurationMs,
    FencingToken,
    TaskId,
    TaskNumber,
    TimestampMs,
)
from tq_cluster.core.reads import describe
from tq_cluster.core.reads.depths import queue_depths
from tq_cluster.core.reads.listings import list_dead_letters, list_queues, list_tasks
from tq_cluster.core.reads.steps import Reader, Steps
from tq_cluster.core.rows import rows, tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

__all__ = [
    "cluster_version",
    "first_due",
    "first_retired",
    "get_task",
    "heartbeat",
    "heartbeat_fault",
    "held_lease",
    "list_dead_letters",
    "list_queues",
    "list_tasks",
    "log_time",
    "may_hold_ready",
    "membership",
    "namespaces_in",
    "next_due_ms",
    "next_forgotten_ms",
    "next_retired_ms",
    "queue_depths",
    "queue_stats",
    "queues_of",
    "running_leases",
    "stepped_ms",
    "task_type",
]


def get_task(
    scope: Scope[Reader], request: task_service_pb2.GetTaskRequest
) -> Steps[Replied | Refused]:
    """Return one task with its whole history.

    It announces the size of the payload and the result to the reader before it reads them.

    A task past its retention is returned until an entry has removed it: if the clock alone hid it,
    it could reappear with the next leader.
    """
    reply = task_service_pb2.GetTaskResponse()
    fault = yield from _read_task(scope, request, reply.task)
    return fault or Replied(reply=reply)


def wait_task(
    scope: Scope[Reader], request: task_service_pb2.WaitTaskRequest
) -> Steps[Replied | Refused]:
    """Return one task as ``get_task`` does, and whether it is finished, without waiting."""
    reply = task_service_pb2.WaitTaskResponse()
    fault = yield from _read_task(scope, request, reply.task)
    reply.finished = reply.task.state in states.TERMINAL
    return fault or Replied(reply=reply)


def _read_task(
    scope: Scope[Reader],
    request: task_service_pb2.GetTaskRequest | task_service_pb2.WaitTaskRequest,
    task: task_pb2.Task,
) -> Steps[Refused | None]:
    view, prefix = scope.view, scope.prefix
    while True:
        found = rows.find_task(view, prefix, request.task_id)
        if found is None:
            return no_such_task(request.task_id)
        if request.omit_payload:
            task.CopyFrom(describe.whole_task(view, prefix, *found))
            there = True
        else:
            there = yield from describe.add_task_with_payload(view, prefix, *found, task)
        # If it was removed meanwhile, look again: another task may have its id by now.
        if there:
            there = yield from describe.add_dependencies(view, prefix, *found, task)
        if there:
            return None


def look_ahead(scope: Scope[View], task_id: TaskId) -> tuple[bool, int]:
    """Return whether a task is terminal or gone, and the most bytes of its payload and result."""
    view, prefix = scope.view, scope.prefix
    found = rows.find_task(view, prefix, task_id)
    if found is None:
        return True, 0
    size = describe.content_bytes(view, prefix, *found)
    return found[1].state in states.TERMINAL, size


def queue_stats(
    scope: Scope[Reader], request: queue_service_pb2.GetQueueStatsRequest
) -> Steps[Replied | Refused]:
    """Return the counts of one queue."""
    yield from ()  # in one step
    view, prefix = scope.view, scope.prefix
    queue_id = rows.read_queue_id(view, prefix, request.queue)
    if queue_id is None:
        return no_such_queue(request.queue)
    stats = describe.queue_stats(view, prefix, read_queue(view, prefix, queue_id))
    return Replied(reply=queue_service_pb2.GetQueueStatsResponse(stats=stats))


def may_hold_ready(scope: Scope[View], names: Iterable[str]) -> bool:
    """Return whether a claim of these queues may find a task; True if only a decision can tell."""
    view, prefix = scope.view, scope.prefix
    if view.get(tables.META, tables.RESTORED_KEY) is not None:
        return True
    for name in dict.fromkeys(names):
        queue_id = rows.read_queue_id(view, prefix, name)
        if queue_id is not None:
            queue = read_queue(view, prefix, queue_id)
            if not queue.paused and queue.counts[states.PENDING]:
                return True
    return False


def heartbeat(
    scope: Scope[View],
    request: worker_service_pb2.HeartbeatRequest,
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Replied | Refused, list[FencingToken]]:
    """Return the answer to a heartbeat, and the tokens of its leases that are live in the view."""
    fault = heartbeat_fault(request, limits)
    if fault is not None:
        return fault, []
    reply = worker_service_pb2.HeartbeatResponse()
    live = [
        FencingToken(held.token)
        for held in request.leases
        if held_lease(scope, held, reply.results.add(task_id=held.task_id))
    ]
    return Replied(reply=reply), live


def heartbeat_fault(
    request: worker_service_pb2.HeartbeatRequest, limits: Limits = DEFAULT_LIMITS
) -> Refused | None:
    """Return the refusal of a heartbeat, if any, before its leases are checked."""
    if not request.leases:
        return None
    return check_count("leases", len(request.leases), limits.heartbeat_leases_max)


def held_lease(
    scope: Scope[View],
    held: worker_service_pb2.HeldLease,
    result: worker_service_pb2.HeartbeatResult,
) -> bool:
    """Put a heartbeat's answer for one lease into ``result``; return whether it is live."""
    found = rows.find_task(scope.view, scope.prefix, held.task_id)
    if found is None or found[1].state != states.RUNNING or found[1].token != held.token:
        result.status = worker_service_pb2.HeartbeatResult.STATUS_LEASE_LOST
        return False
    row = found[1]
    if row.cancel_requested:
        result.status = worker_service_pb2.HeartbeatResult.STATUS_CANCEL_REQUESTED
    else:
        result.status = worker_service_pb2.HeartbeatResult.STATUS_RENEWED
    put_ms(result.lease, row.lease_ms)
    return True


def running_leases(
    scope: Scope[View], after: bytes, limit: int
) -> tuple[list[Lease], bytes | None]:
    """Return a slice of the live leases, and where the next slice begins, None at the end.

    An empty ``after`` means the first slice.
    """
    view, prefix = scope.view, scope.prefix
    start = after or tables.by_state_key(prefix, states.RUNNING, 0, 0)
    stop = tables.by_state_key(prefix, states.RUNNING + 1, 0, 0)
    leases: list[Lease] = []
    last = b""
    for key, value in view.scan(tables.BY_STATE, start, stop, limit=limit):
        row = state_pb2.LeaseRow.FromString(value)
        leases.append(
            Lease(
                FencingToken(row.token),
                TaskNumber(tables.split_number(key)),
                TaskId(row.task_id),
                DurationMs(row.lease_ms),
                scope.namespace,
            )
        )
        last = key
    return leases, last + b"\x00" if len(leases) == limit else None


def next_due_ms(scope: Scope[View]) -> int | None:
    """Return when the next waiting task becomes ready or expires, in ms; None without any."""
    due = [
        at_ms
        for table in (tables.DUE, tables.EXPIRING)
        if (at_ms := _first_at(scope, table)) is not None
    ]
    return min(due, default=None)


def next_retired_ms(scope: Scope[View]) -> int | None:
    """Return when the next task is to be removed, in ms; None without any."""
    return _first_at(scope, tables.RETIRED)


def next_forgotten_ms(scope: Scope[View], limits: Limits = DEFAULT_LIMITS) -> int | None:
    """Return when the next request id is to be dropped, in ms; None without any.

    The instant is log time without its steps: request ids do not age by steps.
    """
    prefix = scope.prefix
    first = next(scope.view.scan(tables.REQUESTS, prefix, tables.end_of(prefix), limit=1), None)
    return None if first is None else request_ids.forgotten_at_ms(first[0], limits)


def first_due(scope: Scope[View], now_ms: int, passed_over: Collection[int] = ()) -> int | None:
    """Return the number of the first task for ``MakeDue``, except those passed over."""
    for table in (tables.EXPIRING, tables.DUE):
        found = _first_reached(scope, table, now_ms, passed_over)
        if found is not None:
            return found
    return None


def first_retired(scope: Scope[View], now_ms: int, passed_over: Collection[int] = ()) -> int | None:
    """Return the number of the first task for ``RemoveRetired``, except those passed over."""
    return _first_reached(scope, tables.RETIRED, now_ms, passed_over)


def membership(view: View) -> tuple[str, dict[str, str]] | None:
    """Return the cluster's id and its members' incarnations, None before it is formed."""
    row = view.get(tables.META, tables.CLUSTER_KEY)
    cluster = state_pb2.ClusterRow.FromString(row or b"")
    if not cluster.cluster_id:
        return None
    return cluster.cluster_id, {each.node_id: each.incarnation for each in cluster.members}


def cluster_version(view: View) -> int:
    """Return the version of the rules that leaders decide by; 0 before the cluster is formed."""
    row = view.get(tables.META, tables.CLUSTER_KEY)
    return 0 if row is None else state_pb2.ClusterRow.FromString(row).cluster_version


def namespaces_in(view: View) -> list[int]:
    """Return the numbers of the default namespace and of all others that hold queues or tasks."""
    found = [DEFAULT_NAMESPACE]
    start, stop = tables.GROUP_PREFIX, tables.end_of(tables.GROUP_PREFIX[:1])
    while (first := next(view.scan(tables.QUEUES, start, stop, limit=1), None)) is not None:
        namespace = tables.namespace_of(first[0])
        if namespace != DEFAULT_NAMESPACE:
            found.append(namespace)
        start = tables.end_of(tables.prefix_of(namespace))
    return found


def log_time(view: View) -> TimestampMs:
    """Return the instant of the last decision that changed anything; 0 before any."""
    return TimestampMs(_counters(view).now_ms)


def stepped_ms(view: View) -> int:
    """Return the total by which log time was stepped, in ms."""
    return _counters(view).stepped_ms


def _counters(view: View) -> state_pb2.CountersRow:
    return state_pb2.CountersRow.FromString(view.get(tables.META, tables.COUNTERS_KEY) or b"")


def task_type(scope: Scope[View], number: int) -> str | None:
    """Return the type of the task with this number, None if the task was removed."""
    spec = scope.view.get(tables.SPECS, tables.number_key(scope.prefix, number))
    return None if spec is None else task_pb2.TaskSpec.FromString(spec).type


def queues_of(scope: Scope[Reader], task_ids: Sequence[str]) -> Steps[list[str]]:
    """Return the names of the queues that these tasks are in, without those of absent tasks."""
    view, prefix = scope.view, scope.prefix
    names: dict[int, str] = {}
    for task_id in task_ids:
        if view.step_is_over:
            yield
        found = rows.find_task(view, prefix, task_id)
        if found is not None and found[1].queue_id not in names:
            queue_id = found[1].queue_id
            names[queue_id] = read_queue(view, prefix, queue_id).name
    return list(names.values())


def _first_reached(
    scope: Scope[View], table: int, now_ms: int, passed_over: Collection[int]
) -> int | None:
    start, stop = tables.at_key(scope.prefix, 0, 0), tables.at_key(scope.prefix, now_ms + 1, 0)
    for key, _ in scope.view.scan(table, start, stop, limit=len(passed_over) + 1):
        number = tables.split_number(key)
        if number not in passed_over:
            return number
    return None


def _first_at(scope: Scope[View], table: int) -> int | None:
    stop = tables.end_of(scope.prefix)
    first = next(scope.view.scan(table, scope.prefix, stop, limit=1), None)
    return None if first is None else tables.split_at(first[0])[0]
