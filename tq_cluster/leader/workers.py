"""The workers that a leader has heard from.

The registry holds what workers say in their calls, in memory until the leadership ends; no decision
depends on it. A new leader has heard from every live worker within one long poll.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final

from tq.v1 import worker_service_pb2 as pb
from tq_cluster.core.model.types import FencingToken
from tq_cluster.core.reads import pages
from tq_cluster.core.reads.steps import COST_BYTES, Reader, Steps
from tq_cluster.core.rows.scope import Scope
from tq_common.limits import CLAIM_QUEUES_MAX, CLAIM_TYPES_MAX, LEASE_S_DEFAULT, LEASE_S_MAX
from tq_common.names import QUEUE_NAME_CHARS_MAX, TASK_TYPE_CHARS_MAX, WORKER_ID_CHARS_MAX

FORGOTTEN_S: Final = 300.0
"""A worker that was silent for so long is not listed any more."""
ACTIVE_S: Final = 60.0
"""A worker that neither waits nor was heard from for so long is not counted any more."""
WORKERS_MAX: Final = 10_000
IDS_A_COST: Final = 20
"""How many ids are sorted in the time that reading one row takes."""
QUEUES_NAMED_MAX: Final = 100_000
"""Total over all workers: their queue names are kept in memory."""
TYPES_NAMED_MAX: Final = 100_000
"""Total over all workers. A worker whose types find no room counts as one that claims any."""
TYPES_A_WORKER_MAX: Final = 2 * CLAIM_TYPES_MAX
LOST_S: Final = 30.0
"""A worker that does not wait and was silent for so long, and half a lease, is lost."""
PAGE_BYTES_MAX: Final = 4 << 20
"""A page ends once it is larger than this."""


@dataclass(slots=True)
class Worker:
    """One worker, as this leader has seen it."""

    namespace: int
    worker_id: str
    seen_s: float
    queues: tuple[str, ...] = ()
    types: dict[str, None] = field(default_factory=dict)
    """The types that its claims named."""
    any_type: bool = False
    """It has also claimed any type, or types beyond what is kept."""
    lease_s: float = LEASE_S_MAX
    """The longest lease until its first claim: such a worker is not taken for lost."""
    waiting: int = 0
    """Its claims that are being answered or wait for a task."""
    claimed: int = 0
    completed: int = 0
    failed: int = 0
    released: int = 0
    usage: pb.WorkerUsage | None = None
    """As last reported."""
    holder: str = field(init=False)
    """The worker among those of all namespaces: a text, which garbage collection does not visit."""

    def __post_init__(self) -> None:
        self.holder = f"{self.namespace} {self.worker_id}"


class WorkerRegistry:
    """Workers by namespace and id, the one that was silent for longest first."""

    def __init__(
        self,
        now_s: Callable[[], float],
        drop: Callable[[dict[Any, Any]], None] = dict.clear,
    ) -> None:
        """``drop`` empties a dictionary that may be large."""
        self._now_s = now_s
        self._empty = drop
        self._since_s = now_s()
        self._workers: dict[int, OrderedDict[str, Worker]] = {}
        """By namespace, and only of namespaces that have some."""
        self._count = 0
        """How many workers there are in all namespaces."""
        self._holders: dict[FencingToken, str] = {}
        self._queues_named = 0
        self._types_named = 0
        self._held: dict[str, int] = {}
        """How many leases each holder has: listing workers needs no walk over all leases."""

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        """Forget all workers: another leadership begins."""
        self._since_s = self._now_s()
        dropped: list[dict[Any, Any]] = [*self._workers.values(), self._holders, self._held]
        for each in dropped:
            self._empty(each)
        self._workers, self._holders, self._held = {}, {}, {}
        self._count = self._queues_named = self._types_named = 0

    @contextmanager
    def claiming(self, namespace: int, request: pb.ClaimRequest) -> Iterator[None]:
        """Note the claiming worker, and that it waits until the context ends."""
        worker = self._seen(namespace, request.worker_id)
        if worker is None or not _may_be_queues(request.queues):
            yield
            return
        self._note_queues(worker, request.queues)
        self._note_types(worker, request.types)
        worker.lease_s = LEASE_S_DEFAULT
        if request.HasField("lease"):
            worker.lease_s = min(max(request.lease.seconds, 1), LEASE_S_MAX)
        worker.waiting += 1
        try:
            yield
        finally:
            worker.waiting -= 1
            self._seen(namespace, request.worker_id)

    def granted(self, namespace: int, worker_id: str, tokens: Iterable[FencingToken]) -> None:
        """Note the leases granted to a claim."""
        worker = self._seen(namespace, worker_id)
        if worker is None:
            return
        for token in tokens:
            # A repeated claim is granted the same leases again.
            worker.claimed += self._hold(token, worker.holder)

    def renewed(
        self,
        namespace: int,
        worker_id: str,
        live: Iterable[FencingToken],
        usage: pb.WorkerUsage | None = None,
    ) -> None:
        """Note a heartbeat: the live leases and the usage that its worker reports."""
        worker = self._seen(namespace, worker_id)
        if worker is None:
            return
        for token in live:
            self._hold(token, worker.holder)
        if usage is not None:
            # A copy of the known fields: a part of a message keeps the whole message alive.
            worker.usage = pb.WorkerUsage(
                **{field.name: value for field, value in usage.ListFields()}
            )

    def reported(
        self, namespace: int, request: pb.ReportRequest, response: pb.ReportResponse
    ) -> None:
        """Note the reported outcomes of attempts."""
        worker = self._seen(namespace, request.worker_id)
        if worker is None:
            return
        for report, result in zip(request.reports, response.results, strict=True):
            if result.status != pb.ReportResult.STATUS_RECORDED:
                continue
            match report.WhichOneof("outcome"):
                case "complete":
                    worker.completed += 1
                case "fail":
                    worker.failed += 1
                case "release":
                    worker.released += 1

    def ended(self, token: FencingToken) -> None:
        """Note that a lease has ended."""
        holder = self._holders.pop(token, None)
        if holder is not None:
            self._let_go(holder)

    def listing(
        self, scope: Scope[Reader], request: pb.ListWorkersRequest, after: str, size: int
    ) -> Steps[pb.ListWorkersResponse]:
        """Return up to ``size`` workers with ids above ``after``, in order, in steps.

        The view only counts the cost; the state holds no workers.
        """
        self._forget()
        view = scope.view
        workers: Mapping[str, Worker] = self._workers.get(scope.namespace, {})
        ids = sorted(worker_id for worker_id in workers if worker_id > after)
        view.spend(len(ids) // IDS_A_COST)
        reply = pb.ListWorkersResponse()
        reply_bytes = reached = 0
        for worker_id in ids[:size]:
            if reply_bytes > PAGE_BYTES_MAX:
                break
            reached += 1
            if view.step_is_over:
                yield
            worker = workers.get(worker_id)
            if worker is None:  # forgotten meanwhile
                continue
            info = _info(worker, self._held.get(worker.holder, 0), self._now_s())
            info_bytes = info.ByteSize()
            reply_bytes += info_bytes
            view.spend(1 + info_bytes // COST_BYTES)
            reply.workers.append(info)
        if len(ids) > reached:
            reply.next_page_token = pages.token_of(request, ids[reached - 1].encode())
        reply.observed.FromMilliseconds(int(self.observed_s() * 1000))
        return reply

    def leases_noted(self) -> int:
        """Return how many leases have a known holder."""
        return sum(self._held.values())

    def active(self) -> Iterator[Worker]:
        """Yield workers that claim now or called a moment ago; others may come and go meanwhile."""
        silent_since_s = self._now_s() - ACTIVE_S
        for worker in [each for some in self._workers.values() for each in some.values()]:
            if worker.waiting or worker.seen_s >= silent_since_s:
                yield worker

    def observed_s(self) -> float:
        """Return for how many seconds workers have been noted."""
        return self._now_s() - self._since_s

    def _hold(self, token: FencingToken, holder: str) -> bool:
        """Note the holder of a live lease; return whether that is a change."""
        before = self._holders.get(token)
        if before == holder:
            return False
        if before is not None:
            self._let_go(before)
        self._holders[token] = holder
        self._held[holder] = self._held.get(holder, 0) + 1
        return True

    def _let_go(self, holder: str) -> None:
        left = self._held[holder] - 1
        if left:
            self._held[holder] = left
        else:
            del self._held[holder]

    def _note_queues(self, worker: Worker, queues: Sequence[str]) -> None:
        self._queues_named -= len(worker.queues)
        room = max(0, QUEUES_NAMED_MAX - self._queues_named)
        worker.queues = tuple(queues[:room])
        self._queues_named += len(worker.queues)

    def _note_types(self, worker: Worker, types: Sequence[str]) -> None:
        if not types:
            worker.any_type = True
            return
        if len(types) > CLAIM_TYPES_MAX:
            return  # its claim will be refused
        for name in types:
            if name in worker.types or len(name) > TASK_TYPE_CHARS_MAX:
                continue
            full = len(worker.types) >= TYPES_A_WORKER_MAX
            if full or self._types_named >= TYPES_NAMED_MAX:
                worker.any_type = True
                return
            worker.types[name] = None
            self._types_named += 1

    def _drop(self, worker: Worker) -> None:
        workers = self._workers[worker.namespace]
        del workers[worker.worker_id]
        if not workers:
            del self._workers[worker.namespace]
        self._count -= 1
        self._queues_named -= len(worker.queues)
        self._types_named -= len(worker.types)

    def _seen(self, namespace: int, worker_id: str) -> Worker | None:
        """Return the worker that has just made a call; None for an id that is not valid."""
        if not 1 <= len(worker_id) <= WORKER_ID_CHARS_MAX:
            return None
        workers = self._workers.get(namespace)
        worker = None if workers is None else workers.get(worker_id)
        if worker is None:
            self._forget()
            while self._count >= WORKERS_MAX:
                # Of the namespace with most: the workers of one do not displace another's few.
                self._drop(next(iter(max(self._workers.values(), key=len).values())))
            worker = Worker(namespace, worker_id, self._now_s())
            self._workers.setdefault(namespace, OrderedDict())[worker_id] = worker
            self._count += 1
        worker.seen_s = self._now_s()
        self._workers[namespace].move_to_end(worker_id)
        return worker

    def _forget(self) -> None:
        """Drop workers that were silent for too long."""
        too_long_ago_s = self._now_s() - FORGOTTEN_S
        for workers in list(self._workers.values()):
            silent = takewhile(lambda each: each.seen_s <= too_long_ago_s, workers.values())
            for worker in list(silent):
                self._drop(worker)


def _may_be_queues(names: Sequence[str]) -> bool:
    """Whether a claim's queue names may be valid; those of refused claims are not kept."""
    return len(names) <= CLAIM_QUEUES_MAX and all(
        # A longer name cannot be a queue's: its claim will be refused.
        len(name) <= QUEUE_NAME_CHARS_MAX
        for name in names
    )


def _info(worker: Worker, leases: int, now_s: float) -> pb.WorkerInfo:
    info = pb.WorkerInfo(
        worker_id=worker.worker_id,
        queues=worker.queues,
        leases=leases,
        waiting=worker.waiting > 0,
        claimed=worker.claimed,
        completed=worker.completed,
        failed=worker.failed,
        released=worker.released,
        usage=worker.usage,
        types=worker.types,
        any_type=worker.any_type,
    )
    silence_s = now_s - worker.seen_s
    info.lost = not worker.waiting and silence_s > max(LOST_S, worker.lease_s / 2)
    info.silence.FromMilliseconds(int(silence_s * 1000))
    return info
