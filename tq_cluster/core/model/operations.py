"""What can be asked of the queue, and what can be answered.

An operation is one caller's call, or one slice of the leader's own housekeeping. The public
messages travel inside as they came: core checks them, nothing below it looks into them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from google.protobuf.message import Message

from tq.v1 import errors_pb2, queue_service_pb2, task_service_pb2, worker_service_pb2
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
    """On whose behalf an operation is decided."""

    principal: Principal = NOBODY
    namespace: int
    traceparent: str = ""


ANONYMOUS = Caller(namespace=DEFAULT_NAMESPACE)
"""The leader itself, and whoever else asks in no namespace of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Create tasks."""

    order: ClassVar[int] = 3
    request: task_service_pb2.SubmitRequest
    id_seed: str
    """What the ids of unnamed tasks are derived from: the request id, or a random one where there
    is none.
    """
    caller: Caller = ANONYMOUS
    disk_pressure: bool = False
    """Fewer members than a majority have room on their disks: create nothing new."""
    body_digest: bytes = b""
    """What the memory of request ids knows the request by, where that was worked out before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """Cancel one task, or mark it where it runs."""

    order: ClassVar[int] = 1
    request: task_service_pb2.CancelTaskRequest
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Lease ready tasks to a worker."""

    order: ClassVar[int] = 4
    request: worker_service_pb2.ClaimRequest
    queues: Sequence[str] = ()
    """Those of the request's queues that were not looked at yet. Empty: all of them."""
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Record how attempts ended."""

    order: ClassVar[int] = 0
    request: worker_service_pb2.ReportRequest
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigureQueue:
    """Set how a queue behaves."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.ConfigureQueueRequest
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteQueue:
    """Remove a queue that holds no task."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.DeleteQueueRequest
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """Make dead letters pending again."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.RedriveRequest
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteDeadLetters:
    """Remove dead letters before their retention does."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.DeleteDeadLettersRequest
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class PurgeQueue:
    """Cancel a slice of a queue's waiting tasks."""

    order: ClassVar[int] = 1
    request: queue_service_pb2.PurgeQueueRequest
    caller: Caller = ANONYMOUS


class Lease(NamedTuple):
    """A live lease, as the leader's memory holds it."""

    token: FencingToken
    number: TaskNumber
    task_id: TaskId
    length_ms: DurationMs


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireLeases:
    """End leases whose workers were silent for too long; one that has ended is passed over."""

    order: ClassVar[int] = 2
    leases: Sequence[Lease]
    more: bool = False
    """Whether there are others."""
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeDue:
    """Make tasks pending whose time has come, and fail those past their expire_at."""

    order: ClassVar[int] = 2
    tasks_max: int = 200
    passed_over: frozenset[int] = frozenset()
    """The numbers of tasks that are left as they are: what is due of them could not be decided."""
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRetired:
    """Remove tasks past their retention."""

    order: ClassVar[int] = 5
    rows_max: int = 200
    passed_over: frozenset[int] = frozenset()
    """The numbers of tasks that are kept: they could not be removed."""
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetRequests:
    """Drop request ids past their window."""

    order: ClassVar[int] = 5
    rows_max: int = 200
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class FormCluster:
    """Write down, once, who the members are: the first entry of a new cluster."""

    order: ClassVar[int] = 0
    cluster_id: str
    members: Mapping[str, str]
    """Node id to incarnation."""
    cluster_version: int
    """What every member's software can take part in."""
    wall_ms: int
    """The members' wall clocks: over a restored state, tokens go on above what that allows."""
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseVersion:
    """Decide by newer rules from now on: every member can, and no older node starts any more."""

    order: ClassVar[int] = 5
    cluster_version: int
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class FillTables:
    """Go on filling tables for what was there before them."""

    order: ClassVar[int] = 5
    rows_max: int = 200
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class HashState:
    """Have every node hash the range of the state that begins at a place, and go on with a pass."""

    order: ClassVar[int] = 5
    table: int = 0
    from_key: bytes = b""
    rows: int = 0
    """What the pass has hashed before."""
    begins: bool = False
    """It is the first range of a pass."""
    urgent: bool = False
    """Somebody waits for the pass."""
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class EndScrub:
    """A pass has come to the end of the state."""

    order: ClassVar[int] = 5
    rows: int
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLeases:
    """End a slice of the running leases, whose cluster is no more."""

    order: ClassVar[int] = 0
    quarantine: bool
    """Whether their tasks become dead letters, rather than ready again."""
    tasks_max: int = 200
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseQueues:
    """Pause every queue, so that an operator can look before anything runs."""

    order: ClassVar[int] = 5
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveCluster:
    """Make the state that of a cluster which is yet to be formed."""

    order: ClassVar[int] = 5
    made_at_ms: int
    """When the state was copied, by the wall clock."""
    caller: Caller = ANONYMOUS


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceNode:
    """Have another disk take the place of a member's."""

    order: ClassVar[int] = 0
    node_id: str
    incarnation: str
    """The new disk's."""
    caller: Caller = ANONYMOUS


Operation = (
    Submit
    | Cancel
    | Claim
    | Report
    | ConfigureQueue
    | DeleteQueue
    | Redrive
    | DeleteDeadLetters
    | PurgeQueue
    | ExpireLeases
    | MakeDue
    | RemoveRetired
    | ForgetRequests
    | FormCluster
    | RaiseVersion
    | FillTables
    | HashState
    | EndScrub
    | ReplaceNode
    | EndLeases
    | PauseQueues
    | LeaveCluster
)
"""``order`` is the place of its kind within a batch: reports and releases, cancels, expiries,
submits, claims.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replied:
    """The operation was decided; this is what its caller is told."""

    reply: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished(Replied):
    """A claim found nothing with all that it may read at once: it is to be decided again."""

    queues: Sequence[str]
    """Where it has not looked yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A slice of housekeeping was decided."""

    more: bool
    """Whether another slice has work now."""
    items: int = field(default=0, compare=False)
    """How many leases, tasks or request ids it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The operation was decided: no. It changed nothing."""

    reason: errors_pb2.ErrorReason.ValueType
    message: str
    field: str = ""
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry_after_ms: DurationMs | None = None


@dataclass(frozen=True, slots=True)
class HashRange:
    """Rows in the order of tables and keys, from a place on."""

    table: int
    from_key: bytes


Outcome = Replied | Done | Refused

Steps: TypeAlias = Generator[None, None, Outcome]
"""One operation, decided a few rows at a time: after each item that it holds it may be let rest."""


class Ready(NamedTuple):
    """Tasks of one queue that became ready."""

    queue: str
    by_type: Mapping[int, int]
    """How many of each type, by its digest."""
    pending: int
    """How many are ready at the end of the batch, of all types: others may be gone already."""


ANY_TYPE = 0
"""The digest of no type. Among those that became ready: of types that are too many to name."""


class Filled(NamedTuple):
    """How far the filling of tables has come."""

    rows: int
    """How many rows were gone through so far."""
    complete: bool
    """Every table is filled from now on: a claim may find what it missed."""


@dataclass(slots=True)
class Wakeups:
    """What the leader's memory learns once a decision has been applied."""

    ready: list[Ready] = field(default_factory=list)
    """Where tasks became ready that can be claimed."""
    to_fill: bool = False
    """A table is kept from now on that has to be filled."""
    filled: Filled | None = None
    """What a slice of backfill led to."""
    finished: set[TaskId] = field(default_factory=set)
    """Tasks that became terminal."""
    granted: list[Lease] = field(default_factory=list)
    """Leases granted, and those that a repeated claim still holds: each starts afresh from now.

    A batch of repeated claims alone changes nothing and still has leases here.
    """
    ended: list[FencingToken] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)
    """What moved, by queue: to be counted."""
    events: list[TaskEvent] | None = None
    """What became of tasks, in order; None where nobody asked."""


@dataclass(slots=True)
class Decision:
    """What a batch led to; the changes themselves are in the workspace it was decided in."""

    outcomes: list[Outcome]
    """One for each operation that was reached, in their order."""
    wakeups: Wakeups
    hash_range: HashRange | None = None
    """What every node is to hash once it has applied the entry."""
    members: Mapping[str, str] | None = None
    """The members' incarnations, where the batch changes who they are."""
    put_off: Sequence[int] = ()
    """The places of the operations that were not reached: they are for the next entry."""
