"""Claim the most urgent ready tasks under leases."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, TypeAlias

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2, task_pb2, worker_service_pb2
from tq_cluster.core.kernel import kept_tables, ready_order, request_ids, transitions
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.feature import Feature, decides
from tq_cluster.core.kernel.queue import Queue
from tq_cluster.core.kernel.validation import check_claim
from tq_cluster.core.model import states
from tq_cluster.core.model.limits import SECOND_MS
from tq_cluster.core.model.operations import Claim, Lease, Refused, Replied, Steps, Unfinished
from tq_cluster.core.model.proto_time import put_ms, to_ms
from tq_cluster.core.model.types import DurationMs, FencingToken, TaskId, TaskNumber
from tq_cluster.core.rows import rows, tables
from tq_common.limits import LEASE_S_DEFAULT

_ClaimResponse: TypeAlias = worker_service_pb2.ClaimResponse

_LEASE_MS_DEFAULT: Final = LEASE_S_DEFAULT * SECOND_MS
EXPIRED_MAX: Final = 100
"""About how many tasks past their expire_at one decision of a claim fails."""
FOUND_A_STEP: Final = 50
"""The number of tasks found between two pauses of a decision."""
_OVERHEAD_BYTES: Final = 64
"""The most bytes that a claimed task adds to a reply beside its spec."""


def decide_claim(space: Space, operation: Claim) -> Steps:
    """Lease up to ``max_tasks`` ready tasks of the queues named."""
    request = operation.request
    fault = check_claim(request, space.limits)
    if fault is not None:
        return fault
    if space.workspace.get(tables.META, tables.RESTORED_KEY) is not None:
        return _not_formed_yet()
    method = state_pb2.RequestRow.METHOD_CLAIM
    recalled = request_ids.recall(space, operation.caller, method, request)
    if isinstance(recalled, Refused):
        return recalled
    if isinstance(recalled, state_pb2.RequestRow):
        return (yield from _replay(space, recalled))
    lease_ms = DurationMs(to_ms(request.lease) if request.HasField("lease") else _LEASE_MS_DEFAULT)
    reply = worker_service_pb2.ClaimResponse()
    grant = _Grant(space, operation, lease_ms, reply)
    yield from grant.take(operation.queues or request.queues)
    granted = grant.leases
    if granted:
        row = state_pb2.RequestRow(
            numbers=[lease.number for lease in granted],
            tokens=[lease.token for lease in granted],
        )
        request_ids.remember(space, recalled, row)
    elif grant.unlooked:
        return Unfinished(reply=reply, queues=grant.unlooked)
    return Replied(reply=reply)


def release_all(
    request: worker_service_pb2.ClaimRequest, reply: worker_service_pb2.ClaimResponse
) -> worker_service_pb2.ReportRequest:
    """Return the report that releases all leases of a claim whose caller got no answer.

    The releases do not count as attempts.
    """
    release = worker_service_pb2.Release(
        reason="the claim's caller had gone before it was answered, or could not be sent the answer"
    )
    return worker_service_pb2.ReportRequest(
        worker_id=request.worker_id,
        reports=[
            worker_service_pb2.TaskReport(
                task_id=task.spec.task_id, token=task.token, release=release
            )
            for task in reply.tasks
        ],
    )


def _not_formed_yet() -> Refused:
    return Refused(
        reason=errors_pb2.ERROR_REASON_NO_LEADER,
        message="the restored cluster is not formed yet: until all its members have answered, a"
        " token could be one that the cluster before it granted",
    )


class _Grant:
    """The leases of one decision of a claim."""

    def __init__(
        self, space: Space, operation: Claim, lease_ms: DurationMs, reply: _ClaimResponse
    ) -> None:
        self._space = space
        self._request = operation.request
        self._lease_ms = lease_ms
        self._reply = reply
        self._types = frozenset(operation.request.types)
        self._except = frozenset(operation.request.except_types)
        self._first = len(space.wakeups.granted)
        self._room = space.limits.reply_bytes_max
        self._expired = 0
        self._passed: set[int] = set()
        """Tasks of an unwanted type that has the digest of a wanted one."""
        self.unlooked: Sequence[str] = ()
        """The queues that may hold further tasks, which it did not reach."""

    @property
    def leases(self) -> list[Lease]:
        """The leases granted so far."""
        return self._space.wakeups.granted[self._first :]

    def take(self, named: Sequence[str]) -> Generator[None, None, None]:
        """Lease the first ready tasks of the queues, and fail those past their expire_at."""
        space = self._space
        appetite = ready_order.EVERY_TYPE
        if self._types or self._except:
            appetite = ready_order.Appetite(self._types, self._except)
        filled = tables.READY_BY_TYPE in space.counters.filled_tables
        queues = _open_queues(space, named)
        if not queues:
            return
        search = ready_order.Search(space.workspace, space.prefix, appetite, filled=filled)
        queues = search.arrange(queues, space.batch.draw)
        passed = self._passed
        left_out: Sequence[Queue] = ()
        while (wanted := self._request.max_tasks - len(self.leases)) > 0:
            limit = wanted + len(passed)
            for place, queue in enumerate(queues):
                search.look_at(queue, limit)
                yield
                if search.exhausted:
                    # At least one queue is done, so that repeated decisions end.
                    left_out = queues[max(1, place) :]
                    break
            # The list is complete before anything is written: a scan must not see its table change.
            found: list[ready_order.Ready] = []
            for ready in search.in_order(limit):
                found.append(ready)
                if not len(found) % FOUND_A_STEP:
                    yield
            before = self._expired + len(passed)
            for _, number, queue, _, _ in found:
                if number in passed:
                    continue
                if not self._take_one(search, number, queue):
                    return
                if self._expired >= EXPIRED_MAX:
                    # Each of these tasks has failed, so that repeated decisions end.
                    self.unlooked = [each.name for each in queues]
                    return
                yield
            if not filled and search.passed:
                # Wanted tasks are behind others: from here on, index them by type. If workers take
                # all types of their queues, no task pays for that index.
                kept_tables.need(space, tables.READY_BY_TYPE)
            useless = self._expired + len(passed) - before
            if not useless or len(found) < limit or search.exhausted:
                break
        self.unlooked = [queue.name for queue in left_out]

    def _take_one(self, search: ready_order.Search, number: int, queue: Queue) -> bool:
        """Lease a task if it is unexpired and wanted; return False if the reply has no room."""
        space = self._space
        workspace, prefix = space.workspace, space.prefix
        row = rows.read_task(workspace, prefix, number)
        began = len(space.wakeups.granted) > self._first
        chunks = row.payload_chunks
        # Before the payload is read: all chunks but the last are full.
        if began and (chunks - 1) * tables.CHUNK_BYTES > self._room:
            return False
        if row.expire_at_ms and row.expire_at_ms <= space.now_ms:
            task_id = rows.read_spec(workspace, prefix, number).task_id
            transitions.fail(space, queue, number, row, task_id, task_pb2.FAILURE_REASON_EXPIRED)
            space.put_task(number, row)
            self._expired += 1
            return True
        spec = rows.read_spec(workspace, prefix, number, chunks)
        if not self._wants(spec.type):
            self._passed.add(number)
            search.pass_over()
            return True
        self._room -= spec.ByteSize() + _OVERHEAD_BYTES
        if self._room < 0 and began:
            return False
        task_id = TaskId(spec.task_id)
        worker_id = self._request.worker_id
        transitions.start(space, queue, TaskNumber(number), row, task_id, worker_id, self._lease_ms)
        space.put_task(number, row)
        _add_claimed(self._reply, spec, row)
        return True

    def _wants(self, task_type: str) -> bool:
        """Return whether a type is wanted, by its name; a search compares only digests."""
        return (not self._types or task_type in self._types) and task_type not in self._except


def _open_queues(space: Space, names: Sequence[str]) -> list[Queue]:
    """Return the queues named that hold ready tasks and are not paused."""
    found = (space.find_queue(name) for name in dict.fromkeys(names))
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
    """Answer a repeated claim with its leases that are still live, and renew them."""
    reply = worker_service_pb2.ClaimResponse()
    for number, token in zip(remembered.numbers, remembered.tokens, strict=True):
        yield
        found = space.workspace.get(tables.TASKS, tables.number_key(space.prefix, number))
        if found is None:  # finished, and past its retention: its id is gone
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
                    space.namespace,
                )
            )
        else:
            spec = rows.read_spec(space.workspace, space.prefix, number)
            reply.lost_task_ids.append(spec.task_id)
    return Replied(reply=reply)


FEATURE: Final = Feature(name="claim", decisions=(decides(Claim, decide_claim),))
