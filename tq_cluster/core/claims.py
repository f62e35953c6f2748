"""Claiming: leases on the most urgent ready tasks."""

from __future__ import annotations

from collections.abc import Callable, Generator

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_pb2, worker_service_pb2
from tq_cluster.core import ordering, requests, rows, states, tables, tasks
from tq_cluster.core.batch import Queue, Space
from tq_cluster.core.operations import Claim, Lease, Refused, Replied, Steps
from tq_cluster.core.spans import put_ms, to_ms
from tq_cluster.core.types import DurationMs, FencingToken, TaskId, TaskNumber
from tq_cluster.core.validation import LEASE_MS_DEFAULT, check_claim

_OVERHEAD_BYTES = 64
"""What a claimed task adds to a reply beside its spec, at most."""


def decide_claim(space: Space, operation: Claim) -> Steps:
    """Lease up to ``max_tasks`` ready tasks of the queues named."""
    request = operation.request
    fault = check_claim(request, space.limits)
    if fault is not None:
        return fault
    if space.workspace.get(tables.META, tables.RESTORED_KEY) is not None:
        return _not_formed_yet()
    method = state_pb2.RequestRow.METHOD_CLAIM
    recalled = requests.recall(space, operation.caller, method, request)
    if isinstance(recalled, Refused):
        return recalled
    if isinstance(recalled, state_pb2.RequestRow):
        return (yield from _replay(space, recalled))
    lease_ms = DurationMs(to_ms(request.lease) if request.HasField("lease") else LEASE_MS_DEFAULT)
    reply = worker_service_pb2.ClaimResponse()
    granted = yield from _grant(space, request, lease_ms, reply)
    if granted:
        row = state_pb2.RequestRow(
            numbers=[lease.number for lease in granted],
            tokens=[lease.token for lease in granted],
        )
        requests.remember(space, recalled, row)
    return Replied(reply=reply)


def _not_formed_yet() -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_NO_LEADER,
        message="the restored cluster is not formed yet: until all its members have answered, a"
        " token could be one that the cluster before it granted",
    )


def _grant(
    space: Space,
    request: worker_service_pb2.ClaimRequest,
    lease_ms: DurationMs,
    reply: worker_service_pb2.ClaimResponse,
) -> Generator[None, None, list[Lease]]:
    """Lease the first ready tasks into ``reply``; tasks past their expire_at fail on the way."""
    queues = _open_queues(space, request)
    if not queues:
        return []
    granted = space.wakeups.granted
    first = len(granted)
    room = space.limits.reply_bytes_max
    picks = Picks(request)
    # The list is complete before anything is written: a scan must not see its table change.
    for _, number, queue, _, _ in list(
        ordering.in_order(space.workspace, space.prefix, queues, request.max_tasks, picks.by_digest)
    ):
        yield
        row = rows.read_task(space.workspace, space.prefix, number)
        spec = rows.read_spec(space.workspace, space.prefix, number, row.payload_chunks)
        if not picks.takes(spec.type):
            continue
        if row.expire_at_ms and row.expire_at_ms <= space.now_ms:
            tasks.fail(space, queue, number, row, spec.task_id, task_pb2.FAILURE_REASON_EXPIRED)
            space.put_task(number, row)
            # This claim comes out short: whoever waits looks again.
            space.wakeups.ready_queues.add(queue.name)
            continue
        room -= spec.ByteSize() + _OVERHEAD_BYTES
        if room < 0 and len(granted) > first:
            break
        task_number = TaskNumber(number)
        task_id = TaskId(spec.task_id)
        tasks.lease(space, queue, task_number, row, task_id, request.worker_id, lease_ms)
        space.put_task(number, row)
        _add_claimed(reply, spec, row)
    return granted[first:]


class Picks:
    """Which types a claim wants."""

    def __init__(self, request: worker_service_pb2.ClaimRequest) -> None:
        self._types = frozenset(request.types)
        self._except = frozenset(request.except_types)
        digests = {_digest(each) for each in self._types}
        # Two types of one digest: the one that is wanted waits with the other. One in 2^32.
        excepted = {_digest(each) for each in self._except}
        self.by_digest: Callable[[bytes], bool] | None = None
        """Whether a task may be wanted, by what READY holds of its type; None: all are."""
        if digests or excepted:
            self.by_digest = lambda digest: (
                not digest or ((not digests or digest in digests) and digest not in excepted)
            )

    def takes(self, task_type: str) -> bool:
        """Say it of a type itself."""
        return (not self._types or task_type in self._types) and task_type not in self._except


def _digest(task_type: str) -> bytes:
    return ordering.ready_value(ordering.type_digest(task_type))


def _open_queues(space: Space, request: worker_service_pb2.ClaimRequest) -> list[Queue]:
    """Return the queues named that hold ready tasks and are not paused."""
    found = (space.find_queue(name) for name in dict.fromkeys(request.queues))
    return [
        queue
        for queue in found
        if queue is not None and not queue.paused and queue.counts[states.PENDING]
    ]


def _add_claimed(
    reply: worker_service_pb2.ClaimResponse, spec: task_pb2.TaskSpec, row: state_pb2.TaskRow
) -> None:
    claimed = reply.tasks.add()
    claimed.spec.CopyFrom(spec)
    claimed.token = row.token
    claimed.attempt = row.attempts_made
    put_ms(claimed.lease, row.lease_ms)
    put_ms(claimed.submitted_at, row.submitted_at_ms)


def _replay(space: Space, remembered: state_pb2.RequestRow) -> Steps:
    """Answer a repeated claim with those of its leases that still live, and renew them."""
    reply = worker_service_pb2.ClaimResponse()
    for number, token in zip(remembered.numbers, remembered.tokens, strict=True):
        yield
        found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, number))
        if found is None:  # finished, and past its retention: there is no id left to name
            continue
        row = state_pb2.TaskRow.FromString(found)
        if row.state == states.RUNNING and row.token == token:
            spec = rows.read_spec(space.workspace, space.prefix, number, row.payload_chunks)
            _add_claimed(reply, spec, row)
            space.wakeups.granted.append(
                Lease(
                    FencingToken(token),
                    TaskNumber(number),
                    TaskId(spec.task_id),
                    DurationMs(row.lease_ms),
                )
            )
        else:
            spec = rows.read_spec(space.workspace, space.prefix, number)
            reply.lost_task_ids.append(spec.task_id)
    return Replied(reply=reply)
