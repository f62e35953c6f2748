"""The operations of the queue, and their outcomes.

An operation is one caller's call, or one slice of the leader's own housekeeping. It holds the
public message unchanged: core checks it, nothing below core reads it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from google.protobuf.message import Message

from tq.v1 import errors_pb2, queue_service_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.core.model.queue_moves import Tally
from tq_cluster.core.model.types import (
    DEFAULT_NAMESPACE,
    DurationMs,
    FencingToken,
    Principal,
    TaskId,
    TaskNumber,
)

if TYPE_CHECKING:
    from tq_cluster.core.model.events import TaskEvent

NOBODY = Principal("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller for whom an operation is decided."""

    principal: Principal = NOBODY
    namespace: int
    traceparent: str = ""


ANONYMOUS = Caller(namespace=DEFAULT_NAMESPACE)
"""The leader itself, and every other caller that names no namespace."""


class Weight(NamedTuple):
    """What an operation may take of a batch at most."""

    items: int
    """An item is about ten rows read or written, such as a task submitted."""
    payload_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is decided: a caller's call, or a slice of the leader's own work.

    Each kind is a class of its own; the feature that it belongs to registers its decision
    (`tq_cluster.core.features`).
    """

    order: ClassVar[int]
    """The place of its kind within a batch. 0: reports, formation, node replacement; 1: cancels and
    queue calls; 2: expiries and due tasks; 3: submits; 4: claims; 5: other housekeeping.
    """
    caller: Caller = ANONYMOUS

    def weight(self) -> Weight:
        """Return what it may take of a batch at most."""
        return Weight(1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit(Operation):
    """Create tasks."""

    order: ClassVar[int] = 3
    request: task_service_pb2.SubmitRequest
    id_seed: str
    """The seed for the ids of unnamed tasks: the request id, or a random one if there is none."""
    disk_pressure: bool = False
    """Fewer members than a majority have room on their disks: create nothing new."""
    body_digest: bytes = b""
    """The request's digest for request ids, if it was computed before."""

    def weight(self) -> Weight:
        return _weight_of(self.request)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitTogether(Operation):
    """Create all of the tasks, or none."""

    order: ClassVar[int] = 3
    request: task_service_pb2.SubmitTogetherRequest
    id_seed: str
    """As in `Submit`."""
    disk_pressure: bool = False
    body_digest: bytes = b""

    def weight(self) -> Weight:
        return _weight_of(self.request)


def _weight_of(
    request: task_service_pb2.SubmitRequest | task_service_pb2.SubmitTogetherRequest,
) -> Weight:
    """A dependency is about five rows."""
    tasks = request.tasks
    if len(tasks) > DEFAULT_LIMITS.submit_tasks_max:
        return Weight(1, 0)  # it will be refused, so its tasks are not walked
    dependencies = sum(len(spec.depends_on) for spec in tasks)
    return Weight(1 + len(tasks) + dependencies // 2, request.ByteSize())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Operation):
    """Cancel one task, or mark it to be cancelled if it runs."""

    order: ClassVar[int] = 1
    request: task_service_pb2.CancelTaskRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Operation):
    """Lease ready tasks to a worker."""

    order: ClassVar[int] = 4
    request: worker_service_pb2.ClaimRequest
    queues: Sequence[str] = ()
    """The request's queues that are still to be searched. Empty: all of them."""
    waits: bool = False
    """If it finds nothing it waits: its caller does not learn of that outcome."""

    def weight(self) -> Weight:
        return Weight(1 + self.request.max_tasks, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Operation):
    """Record how attempts ended."""

    order: ClassVar[int] = 0
    request: worker_service_pb2.ReportRequest

    def weight(self) -> Weight:
        reports = self.request.reports
        if len(reports) > DEFAULT_LIMITS.reports_max:
            return Weight(1, 0)  # it will be refused, so its reports are not walked
        children = sum(len(each.complete.submit) for each in reports)
        children = min(children, DEFAULT_LIMITS.report_submit_tasks_max)
        return Weight(1 + len(reports) + children, self.request.ByteSize())


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigureQueue(Operation):
    """Set a queue's settings."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.ConfigureQueueRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteQueue(Operation):
    """Remove a queue that holds no task."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.DeleteQueueRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive(Operation):
    """Make dead letters pending again."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.RedriveRequest

    def weight(self) -> Weight:
        most = self.request.max_tasks or DEFAULT_LIMITS.redrive_tasks_max
        return Weight(1 + (len(self.request.task_ids) or most), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteDeadLetters(Operation):
    """Remove dead letters before their retention ends."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.DeleteDeadLettersRequest

    def weight(self) -> Weight:
        most = self.request.max_tasks or DEFAULT_LIMITS.redrive_tasks_max
        return Weight(1 + (len(self.request.task_ids) or most), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeQueue(Operation):
    """Cancel a slice of a queue's waiting tasks."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.PurgeQueueRequest

    def weight(self) -> Weight:
        return Weight(1 + (self.request.max_tasks or DEFAULT_LIMITS.purge_tasks_default), 0)


class Lease(NamedTuple):
    """A live lease, as the leader's memory holds it."""

    token: FencingToken
    number: TaskNumber
    task_id: TaskId
    length_ms: DurationMs
    namespace: int
    """The namespace of its task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireLeases(Operation):
    """End leases whose workers were silent for too long; skip those that have ended."""

    order: ClassVar[int] = 2
    leases: Sequence[Lease]
    """All of the caller's namespace."""
    more: bool = False
    """Whether there are further leases to end."""

    def weight(self) -> Weight:
        return Weight(1 + len(self.leases), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDue(Operation):
    """Make tasks pending whose time has come, and fail those past their expire_at."""

    order: ClassVar[int] = 2
    tasks_max: int = 200
    passed_over: frozenset[int] = frozenset()
    """The numbers of tasks to leave as they are, since they could not be decided."""
    more: bool = False
    """Whether tasks of other namespaces are due, too."""

    def weight(self) -> Weight:
        return Weight(1 + self.tasks_max, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRetired(Operation):
    """Remove tasks past their retention."""

    order: ClassVar[int] = 5
    rows_max: int = 200
    passed_over: frozenset[int] = frozenset()
    """The numbers of tasks to keep, since they could not be removed."""
    more: bool = False
    """Whether other namespaces have such tasks, too."""

    def weight(self) -> Weight:
        return Weight(1 + self.rows_max // 8, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Continue(Operation):
    """Go on with what earlier operations set off and did not finish."""

    order: ClassVar[int] = 2
    items_max: int = 200
    passed_over: frozenset[int] = frozenset()
    """The turns of continuations to leave, since they could not be decided."""
    more: bool = False
    """Whether other namespaces have continuations, too."""

    def weight(self) -> Weight:
        return Weight(1 + self.items_max, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRequests(Operation):
    """Drop request ids past their window."""

    order: ClassVar[int] = 5
    rows_max: int = 200
    more: bool = False
    """Whether other namespaces have such request ids, too."""

    def weight(self) -> Weight:
        return Weight(1 + self.rows_max // 8, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormCluster(Operation):
    """Store the members, once: the first entry of a new cluster."""

    order: ClassVar[int] = 0
    cluster_id: str
    members: Mapping[str, str]
    """Node id to incarnation."""
    cluster_version: int
    """A version that every member's software supports."""
    wall_ms: int
    """The members' wall clocks, in ms: over a restored state, new tokens start above them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseVersion(Operation):
    """Decide by newer rules from now on; all members support them, and older nodes cannot start."""

    order: ClassVar[int] = 5
    cluster_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FillTables(Operation):
    """Fill a slice of the new tables for older tasks."""

    order: ClassVar[int] = 5
    rows_max: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class HashState(Operation):
    """Have every node hash the next range of the state in a scrub pass."""

    order: ClassVar[int] = 5
    table: int = 0
    from_key: bytes = b""
    rows: int = 0
    """The number of rows that the pass has hashed before."""
    begins: bool = False
    """Whether it is the first range of a pass."""
    urgent: bool = False
    """Whether a caller waits for the pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndScrub(Operation):
    """End a scrub pass: it has reached the end of the state."""

    order: ClassVar[int] = 5
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLeases(Operation):
    """End a slice of the running leases of a cluster that no longer exists."""

    order: ClassVar[int] = 0
    quarantine: bool
    """Whether their tasks become dead letters, rather than ready again."""
    tasks_max: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseQueues(Operation):
    """Pause every queue, so that an operator can look before anything runs."""

    order: ClassVar[int] = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveCluster(Operation):
    """Detach the state from its cluster, for a cluster to be formed over it."""

    order: ClassVar[int] = 5
    made_at_ms: int
    """When the state was copied, by the wall clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceNode(Operation):
    """Replace a member's disk by another."""

    order: ClassVar[int] = 0
    node_id: str
    incarnation: str
    """The new disk's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replied:
    """The operation was decided; ``reply`` is the answer to its caller."""

    reply: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished(Replied):
    """A claim leased nothing within the bound of one decision: it is to be decided again."""

    queues: Sequence[str]
    """The queues that are still to be searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A slice of housekeeping was decided."""

    more: bool
    """Whether another slice has work now."""
    items: int = field(default=0, compare=False)
    """The number of leases, tasks or request ids in the slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The operation was refused. It changed nothing."""

    reason: errors_pb2.ErrorReason.ValueType
    message: str
    field: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry_after_ms: DurationMs | None = None


@dataclass(frozen=True, slots=True)
class HashRange:
    """Rows in the order of tables and keys, from ``from_key`` of ``table`` on."""

    table: int
    from_key: bytes


Outcome = Replied | Done | Refused

Steps: TypeAlias = Generator[None, None, Outcome]
"""One operation, decided a few rows at a time: it can pause after each of its items."""


class Ready(NamedTuple):
    """Tasks of one queue that became ready."""

    namespace: int
    queue: str
    by_type: Mapping[int, int]
    """The number of tasks of each type, by its digest."""
    pending: int
    """How many are ready at the end of the batch, of all types; some may be claimed already."""


ANY_TYPE = 0
"""The digest of no type. In `Ready`: the types are unknown or too many to name."""


class Filled(NamedTuple):
    """The progress of the backfill."""

    rows: int
    """The number of rows scanned so far."""
    complete: bool
    """Whether every table is filled now: a claim may find tasks that it missed."""


@dataclass(slots=True)
class Wakeups:
    """Updates for the leader's memory, once a decision has been applied."""

    ready: list[Ready] = field(default_factory=list)
    """The queues in which tasks became ready that can be claimed."""
    to_fill: bool = False
    """Whether a table is kept from now on that has to be filled."""
    filled: Filled | None = None
    """The result of a slice of backfill."""
    finished: set[tuple[int, TaskId]] = field(default_factory=set)
    """Tasks that became terminal, each with its namespace."""
    granted: list[Lease] = field(default_factory=list)
    """Leases granted, and those that a repeated claim still holds: each starts again from now.

    A batch of repeated claims alone changes nothing and still has leases here.
    """
    ended: list[FencingToken] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    """The moves of tasks, by queue, to be counted."""
    events: list[TaskEvent] | None = None
    """The events of tasks, in order; None if they are not wanted."""


@dataclass(slots=True)
class Decision:
    """The result of a batch; the changes themselves are in the batch's workspace."""

    outcomes: list[Outcome]
    """One for each operation that was reached, in their order."""
    wakeups: Wakeups
    hash_range: HashRange | None = None
    """The range that every node hashes once it has applied the entry."""
    members: Mapping[str, str] | None = None
    """The members' incarnations, if the batch changes them."""
    put_off: Sequence[int] = ()
    """The places of the operations that were not reached: they are for the next entry."""
