"""A fake log and a fake leader that a test controls, and nodes that listen on a free port."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tests.patience import PATIENCE_S
from tests.scopes import scope_of
from tq.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    queue_service_pb2_grpc,
    task_pb2,
    task_service_pb2,
    task_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from tq_cluster.clock import SystemClock
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.model.namespaces import ONLY_DEFAULT, Namespaces
from tq_cluster.core.model.operations import (
    Caller,
    Claim,
    Operation,
    Outcome,
    Refused,
    Replied,
)
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads.steps import Reader, Steps, in_one_go
from tq_cluster.errors import NotLeaderError
from tq_cluster.raft.log_api import LogStatus, PeerProgress, Role
from tq_cluster.reading import Reading
from tq_cluster.service import call
from tq_cluster.service.authorization import Authorize, authorize
from tq_cluster.service.backups import Copy
from tq_cluster.service.peer_authentication import Membership
from tq_cluster.service.service import Dependencies, Service
from tq_cluster.service.status import ClusterFacts, Vitals
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.telemetry.spans import Tracing

Answer = TypeVar("Answer")


async def until(fact: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
    """Wait for a fact; AssertionError says which one did not come."""
    try:
        async with asyncio.timeout(within_s):
            while not fact():  # noqa: ASYNC110  # any fact, not one event
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"not within {within_s} s: {what}") from None


class FakeLog:
    """A log whose leader the test sets."""

    def __init__(self, node_id: str, members: list[str]) -> None:
        self.node_id = node_id
        self.members = members
        self.role = Role.FOLLOWER
        self.term = 1
        self.leader_id: str | None = None
        self.commit_index = 10
        self.applied_index = 10
        self.disconnected: set[str] = set()
        self.strangers: dict[str, str] = {}
        self.transferred: list[str | None] = []
        self.transfer_to: str | None = None
        self.stopped: list[tuple[str, str]] = []
        self._listeners: list[Callable[[LogStatus], None]] = []
        self._applied_listeners: list[Callable[[int], None]] = []

    def status(self) -> LogStatus:
        return LogStatus(
            role=self.role,
            term=self.term,
            leader_id=self.leader_id,
            last_index=self.commit_index,
            durable_index=self.commit_index,
            commit_index=self.commit_index,
            applied_index=self.applied_index,
            journal_bytes=4096,
            peers={
                each: PeerProgress(
                    connected=each not in self.disconnected, match_index=0, wall_offset_ms=None
                )
                for each in self.members
                if each != self.node_id
            },
            strangers=self.strangers,
        )

    def leads(self) -> bool:
        return self.role is Role.LEADER

    def wall_offsets_ms(self) -> list[int]:
        return []

    def hear_of(self, leader_id: str | None, term: int) -> None:
        """Set the leader that the node knows."""
        self.leader_id, self.term = leader_id, term
        self.role = Role.LEADER if leader_id == self.node_id else Role.FOLLOWER
        for listener in self._listeners:
            listener(self.status())

    def be_stranger(self) -> None:
        """Learn that the node is not a member of its peers' cluster."""
        self.role, self.leader_id = Role.STRANGER, None
        for listener in self._listeners:
            listener(self.status())

    def decidable(self) -> AppliedAt | None:
        return None

    def propose(self, entry: bytes, base: AppliedAt) -> asyncio.Future[None]:
        raise NotImplementedError

    def confirm(self) -> asyncio.Future[AppliedAt]:
        raise NotImplementedError

    def mark(self) -> int:
        raise NotImplementedError

    def led_since(self, mark: int) -> bool:
        raise NotImplementedError

    def common_version(self) -> int | None:
        return CLUSTER_VERSION

    def share_hash(self, index: int, digest: bytes) -> None:
        raise NotImplementedError

    def on_hash(self, listener: Callable[[str, int, bytes], None]) -> None:
        self.hash_listener = listener

    def stop_differing(self, peer_id: str, message: str) -> None:
        self.stopped.append((peer_id, message))

    def on_role_change(self, listener: Callable[[LogStatus], None]) -> None:
        self._listeners.append(listener)

    def on_decidable(self, listener: Callable[[], None]) -> None:
        raise NotImplementedError

    def on_applied(self, listener: Callable[[int], None]) -> None:
        self._applied_listeners.append(listener)

    def apply(self, index: int) -> None:
        """Set the last entry that the node's state holds."""
        self.applied_index = index
        for listener in self._applied_listeners:
            listener(index)

    async def transfer_leadership(self, target_id: str | None, within_s: float) -> str:
        self.transferred.append(target_id)
        if self.transfer_to is None:
            raise TimeoutError
        return self.transfer_to

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError


class FakeLeader:
    """Gives the test's answers, and records the requests."""

    def __init__(self, log: FakeLog, store: MemoryStore) -> None:
        self._log = log
        self._store = store
        self.asked: list[Any] = []
        self.callers: list[Caller] = []
        """Whose heartbeats, waits and lists of workers came; an operation names its own."""
        self.arrived = asyncio.Event()
        """Set when a request arrives."""
        self.answer: Callable[[], Awaitable[Outcome]] | None = None
        """Replaces the default answers."""
        self.cancelled = 0
        self.given_back: list[tuple[Claim, Outcome]] = []
        self.waits_s: list[float] = []
        self.received_s: list[float] = []

    def serving(self) -> bool:
        return self._log.role is Role.LEADER

    def stop(self) -> None:
        self._log.hear_of(None, self._log.term)

    async def submit(self, operation: Operation) -> Outcome:
        reply: Message = task_service_pb2.SubmitResponse()
        if isinstance(operation, Claim):
            reply = worker_service_pb2.ClaimResponse()
        return await self._answer(operation, Replied(reply=reply))

    async def read(self, query: Callable[[Reader], Steps[Answer]]) -> Answer:
        if not self.serving():
            raise NotLeaderError(self._log.leader_id)
        return in_one_go(scope_of(self._store.view()), lambda scope: query(scope.view))

    async def heartbeat(
        self, request: worker_service_pb2.HeartbeatRequest, caller: Caller
    ) -> Replied:
        self.callers.append(caller)
        answer = await self._answer(request, Replied(reply=worker_service_pb2.HeartbeatResponse()))
        assert isinstance(answer, Replied)
        return answer

    async def claim(self, operation: Claim, wait_s: float, received_s: float) -> Outcome:
        self.waits_s.append(wait_s)
        self.received_s.append(received_s)
        return await self._answer(operation, Replied(reply=worker_service_pb2.ClaimResponse()))

    def give_back(self, operation: Claim, outcome: Outcome) -> None:
        self.given_back.append((operation, outcome))

    async def wait_task(
        self,
        request: task_service_pb2.WaitTaskRequest,
        caller: Caller,
        wait_s: float,
        holds: Callable[[int], None],
    ) -> Replied | Refused:
        del holds
        self.callers.append(caller)
        self.waits_s.append(wait_s)
        task = task_pb2.Task(state=task_pb2.TASK_STATE_PENDING)
        reply = task_service_pb2.WaitTaskResponse(task=task)
        answer = await self._answer(request, Replied(reply=reply))
        assert isinstance(answer, Replied | Refused)
        return answer

    async def verify_state(
        self, request: cluster_service_pb2.VerifyStateRequest
    ) -> Replied | Refused:
        raise NotImplementedError

    async def list_workers(
        self, request: worker_service_pb2.ListWorkersRequest, caller: Caller
    ) -> Replied | Refused:
        self.callers.append(caller)
        reply = worker_service_pb2.ListWorkersResponse(leader_id=self._log.leader_id or "")
        answer = await self._answer(request, Replied(reply=reply))
        assert isinstance(answer, Replied | Refused)
        return answer

    async def _answer(self, asked: object, default: Outcome) -> Outcome:
        if not self.serving():
            raise NotLeaderError(self._log.leader_id)
        self.asked.append(asked)
        self.arrived.set()
        if self.answer is None:
            return default
        try:
            return await self.answer()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def no_copy() -> Copy:
    """Fail: no test asks for a backup."""
    raise NotImplementedError


async def committed_already() -> None:
    """Return at once: the state's last commit holds everything that was applied."""


class Node:
    """A service that listens, over a fake log and a fake leader."""

    def __init__(
        self,
        node_id: str,
        apis: dict[str, str],
        members: list[str],
        tracing: Tracing | None = None,
        connections_max: int = 100,
        forwards: Mapping[str, str] = MappingProxyType({}),
        namespaces: Namespaces = ONLY_DEFAULT,
        authorize: Authorize = authorize,
    ) -> None:
        """``forwards``: the announced listeners of nodes for other nodes' calls."""
        self.node_id = node_id
        self.log = FakeLog(node_id, members)
        self.store = MemoryStore()
        self.leader = FakeLeader(self.log, self.store)
        self.membership: Membership | None = ("c1", {name: f"inc-{name}" for name in members})
        self.errors: list[BaseException] = []
        self.cluster_version = 1
        self.copy_state: Callable[[], Copy] = no_copy
        self.state_committed: Callable[[], Awaitable[None]] = committed_already
        self.vitals: Callable[[float | None], Vitals] = lambda _span_s: Vitals(
            version="1",
            started_at_ms=1,
            state_bytes=2,
            disk_free_bytes=3,
            fsync_p50_s=0.001,
            fsync_p99_s=0.002,
            loop_hold_max_s=0.003,
            loop_hold_cpu_max_s=0.001,
        )
        self.parts = Dependencies(
            node_id=node_id,
            apis=apis,
            log=self.log,
            leading=self.leader,
            committed=self.store,
            reading=Reading(),
            clock=SystemClock(),
            vitals=lambda span_s: self.vitals(span_s),  # noqa: PLW0108  # a test may change it
            facts=lambda: ClusterFacts("c1", self.cluster_version),
            state_committed=lambda: self.state_committed(),  # noqa: PLW0108  # a test may change it
            copy_state=lambda: self.copy_state,
            membership=lambda: self.membership,
            state_written_ms=SystemClock().wall_ms(),
            calls_max=50,
            jitter=random.Random(1),
            fatal=self.errors.append,
            tracing=tracing,
            connections_max=connections_max,
            forward_address=forwards.get,
            namespaces=namespaces,
            authorize=authorize,
        )
        self.service = Service(self.parts)
        self.address = f"127.0.0.1:{self.service.bind('127.0.0.1:0')}"
        apis[node_id] = self.address
        self.forward_address = f"127.0.0.1:{self.service.bind_for_nodes('127.0.0.1:0')}"


class Cluster:
    """Service nodes that know one another."""

    def __init__(
        self, nodes: dict[str, Node], apis: dict[str, str], forwards: dict[str, str]
    ) -> None:
        self.nodes = nodes
        self.apis = apis
        self.forwards = forwards

    def __getitem__(self, node_id: str) -> Node:
        return self.nodes[node_id]

    def elect(self, leader_id: str | None, term: int) -> None:
        """Set the leader that every node knows."""
        for node in self.nodes.values():
            node.log.hear_of(leader_id, term)


@asynccontextmanager
async def cluster_of(
    *node_ids: str,
    absent: tuple[str, ...] = (),
    tracing: Tracing | None = None,
    connections_max: int = 100,
    announced: bool = False,
    namespaces: Namespaces = ONLY_DEFAULT,
    authorize: Authorize = authorize,
) -> AsyncIterator[Cluster]:
    """Nodes that listen; ``absent`` ones are members at whose address nothing listens.

    ``announced``: they have announced to each other their listeners for other nodes' calls.
    ``authorize``: decides what their callers may do.
    """
    forwards: dict[str, str] = {}
    apis: dict[str, str] = {}
    members = [*node_ids, *absent]
    nodes = {
        node_id: Node(
            node_id, apis, members, tracing, connections_max, forwards, namespaces, authorize
        )
        for node_id in node_ids
    }
    for node_id in absent:
        apis[node_id] = "127.0.0.1:1"
    if announced:
        forwards.update({name: node.forward_address for name, node in nodes.items()})
    for node in nodes.values():
        await node.service.start()
    try:
        yield Cluster(nodes, apis, forwards)
    finally:
        for node in nodes.values():
            await node.service.stop()
        assert [node.errors for node in nodes.values()] == [[] for _ in nodes]


class Stubs:
    """The generated stubs for one address."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self.worker = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self.queues = queue_service_pb2_grpc.QueueServiceStub(channel)
        self.cluster = cluster_service_pb2_grpc.ClusterServiceStub(channel)


@asynccontextmanager
async def stubs_of(node: Node) -> AsyncIterator[Stubs]:
    """Stubs that call ``node``."""
    async with grpc.aio.insecure_channel(node.address) as channel:
        yield Stubs(channel)


class Failure:
    """A failed call, as its caller sees it."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    retry_after_ms: int | None
    trailing: dict[str, str | bytes]


TIMEOUT_S = 20.0
"""A timeout that only a hang exceeds, since what it is for is answered long before."""


@contextmanager
def answered_after(seconds: float) -> Iterator[float]:
    """Have nodes answer calls so long after they came; yields a timeout that they do not miss.

    A call that is cut off while it is decided ends halfway between the two instants. Without this a
    busy machine may miss the fifth of a second between the answer and the deadline. For calls that
    are not forwarded: the other node would count from there.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call, "MARGIN_SHARE", 1 - seconds / TIMEOUT_S)
        patch.setattr(call, "MARGIN_S", TIMEOUT_S)
        yield TIMEOUT_S


@contextmanager
def fails() -> Iterator[Failure]:
    """Expect the call inside to fail, and take the failure apart."""
    failure = Failure()
    try:
        yield failure
    except grpc.aio.AioRpcError as error:
        failure.code = error.code()
        failure.message = error.details() or ""
        failure.trailing = dict(error.trailing_metadata() or ())
        read_details(failure, failure.trailing.get("grpc-status-details-bin"))
    else:
        raise AssertionError("the call was answered")


def read_details(failure: Failure, raw: str | bytes | None) -> None:
    """Take ErrorInfo and RetryInfo out of a serialized google.rpc.Status."""
    failure.reason, failure.metadata, failure.retry_after_ms = "", {}, None
    if not isinstance(raw, bytes):
        return
    for detail in status_pb2.Status.FromString(raw).details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            assert info.domain == "tq"
            failure.reason, failure.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            failure.retry_after_ms = retry.retry_delay.ToMilliseconds()
