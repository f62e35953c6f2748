"""Where calls go: one channel per broker, and which broker leads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal

import grpc
from grpc import aio

from tq.v1 import (
    cluster_service_pb2_grpc,
    conversation_service_pb2_grpc,
    queue_service_pb2_grpc,
    task_service_pb2_grpc,
    worker_service_pb2_grpc,
)
from tq_client.conversation import Conversation
from tq_common.addresses import canonical, split
from tq_common.backoff import doubled_s
from tq_common.limits import TERM_MAX, TERM_STEP_MAX

if TYPE_CHECKING:
    from tq.v1.cluster_service_pb2_grpc import ClusterServiceAsyncStub
    from tq.v1.conversation_service_pb2_grpc import ConversationServiceAsyncStub
    from tq.v1.queue_service_pb2_grpc import QueueServiceAsyncStub
    from tq.v1.task_service_pb2_grpc import TaskServiceAsyncStub
    from tq.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

CONNECT_TIMEOUT_S = 1.0
RESOLVE_AGAIN_MS = 1_000
RESOLVER = ""
"""gRPC's resolver prefix of each address; a test sets its own name server."""
QUIET_FIRST_S = 0.05
QUIET_MAX_S = 2.0

CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    # The broker sets the limits: it answers with a reason, whereas gRPC would only cut off the
    # call.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A broker that fell silent is noticed within 9 s even by a long poll. Brokers allow a ping
    # every 5 s.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # After a failover the old leader may be back within a second; gRPC's own backoff starts at
    # one and ends at 120.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Despite its name also the least time that one attempt to connect is given.
    ("grpc.min_reconnect_backoff_ms", 100),
    # A broker may come back at another address under its name; by default gRPC looks after 30 s.
    ("grpc.dns_min_time_between_resolutions_ms", RESOLVE_AGAIN_MS),
    # Else a second client in this process would share the first one's connection, and its backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # A proxy named by the environment is for the web.
    ("grpc.enable_http_proxy", 0),
    # Retries are made here: they carry a growing retry_age and may go to another broker.
    ("grpc.enable_retries", 0),
)


FollowLeader = Literal["auto", "never"]
"""Whether a client may connect to a leader at an address that it was not given.

``auto``: yes, unless all given addresses are on this machine and the leader's is not. Such
addresses are the near ends of tunnels (``ssh -L``, ``kubectl port-forward``), and the brokers
behind them must not be called in another way.
"""


class _Wire:
    """A channel and its stubs."""

    def __init__(self, address: str) -> None:
        self.channel = aio.insecure_channel(RESOLVER + address, options=CHANNEL_OPTIONS)
        self.tasks: TaskServiceAsyncStub = task_service_pb2_grpc.TaskServiceStub(self.channel)
        self.queues: QueueServiceAsyncStub = queue_service_pb2_grpc.QueueServiceStub(self.channel)
        self.workers: WorkerServiceAsyncStub = worker_service_pb2_grpc.WorkerServiceStub(
            self.channel
        )
        self.conversations: ConversationServiceAsyncStub = (
            conversation_service_pb2_grpc.ConversationServiceStub(self.channel)
        )
        self.cluster: ClusterServiceAsyncStub = cluster_service_pb2_grpc.ClusterServiceStub(
            self.channel
        )


class Connection:
    """One broker: its channel, opened on first use, and its recent failures."""

    def __init__(self, address: str, *, converses: bool = False) -> None:
        self.address = address
        self._converses = converses
        self.failures = 0
        self.quiet_until_s = 0.0
        """By the loop's clock: until then, the broker is asked only if no other is left."""
        self._wire: _Wire | None = None
        self._conversation: Conversation | None = None
        self._older: set[Conversation] = set()
        """Those that take no more calls, and have not ended."""
        self._barred_until_s = 0.0
        """By the loop's clock: until then each call is made by itself."""

    def __del__(self) -> None:
        # A channel that is freed does not end its streams.
        for conversation in (*self._older, self._conversation):
            if conversation is not None and not conversation.ended:
                conversation.cancel()

    @property
    def dialled(self) -> bool:
        """Whether its channel is open."""
        return self._wire is not None

    @property
    def tasks(self) -> TaskServiceAsyncStub:
        return self._wired().tasks

    @property
    def queues(self) -> QueueServiceAsyncStub:
        return self._wired().queues

    @property
    def workers(self) -> WorkerServiceAsyncStub:
        return self._wired().workers

    @property
    def cluster(self) -> ClusterServiceAsyncStub:
        return self._wired().cluster

    def conversation(self, metadata: Sequence[tuple[str, str]]) -> Conversation | None:
        """Return a conversation, begun with ``metadata`` if need be; None: none is to be had."""
        current = self._conversation
        if current is not None and not current.old:
            return current
        now_s = asyncio.get_running_loop().time()
        self._conversation = None
        if current is not None:
            current.finish()
            self._older = {each for each in (*self._older, current) if not each.ended}
            self._barred_until_s = current.barred_until_s
        if now_s < self._barred_until_s or not self._converses:
            return None
        stream = self._wired().conversations.Converse(metadata=metadata)
        self._conversation = Conversation(stream)
        return self._conversation

    def open(self) -> bool:
        """Whether a call would be sent now; if not, starts to connect."""
        state = self._wired().channel.get_state(try_to_connect=True)
        return state is grpc.ChannelConnectivity.READY

    async def connect(self, timeout_s: float) -> bool:
        """Wait until a call would be sent; False if connecting fails or ``timeout_s`` has passed.

        Connecting first tells an unsent call from a sent one: gRPC's UNAVAILABLE alone could mean
        either.
        """
        channel = self._wired().channel
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    state = channel.get_state(try_to_connect=True)
                    if state is grpc.ChannelConnectivity.READY:
                        return True
                    if state in {
                        grpc.ChannelConnectivity.TRANSIENT_FAILURE,
                        grpc.ChannelConnectivity.SHUTDOWN,
                    }:
                        return False
                    await channel.wait_for_state_change(state)
        except (TimeoutError, aio.UsageError):  # the latter: it was closed meanwhile
            return False

    async def close(self) -> None:
        """Close the channel; a later call opens another."""
        wire, self._wire = self._wire, None
        conversations = {each for each in (*self._older, self._conversation) if each is not None}
        self._conversation, self._older = None, set()
        await asyncio.gather(*(each.close() for each in conversations if not each.ended))
        if wire is not None:
            await wire.channel.close()

    def _wired(self) -> _Wire:
        if self._wire is None:
            self._wire = _Wire(self.address)
        return self._wire


class Connections:
    """The brokers that a client knows: those given to it, and the leaders that brokers named.

    Calls go to the leader if it is known and reachable, else to the next broker in turn, which
    forwards them.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        now_s: Callable[[], float],
        draw: random.Random,
        follow_leader: FollowLeader = "auto",
        *,
        converses: bool = False,
    ) -> None:
        self._converses = converses
        self._all: dict[str, Connection] = {}
        self._now_s = now_s
        ring = list(addresses)
        draw.shuffle(ring)
        self._here = all(map(_is_here, ring))
        self._follow_leader = follow_leader
        for address in ring:
            self._connection(address)
        self.leader: str = ""
        """The address at which the leader is called; empty if unknown or not to be called."""
        self._told = ("", "")
        """The leader's address as brokers name it, and the address at which it is called."""
        self.term = 0
        self._leaders_term = 0
        """The term in which a leader was last named: a term may be known before its leader."""

    @property
    def dialled(self) -> bool:
        """Whether a channel is open."""
        return any(connection.dialled for connection in self._all.values())

    def pick(self) -> Connection:
        """Choose the broker to ask next."""
        now_s = self._now_s()
        leader = self._all.get(self.leader)
        worth_asking = [each for each in self._all.values() if each.quiet_until_s <= now_s]
        if leader in worth_asking and leader.open():
            return leader
        # A leader that cannot be connected to must not hold up a call that another broker would
        # forward.
        for connection in worth_asking:
            if connection.failures == 0 and connection is not leader and connection.open():
                return connection
        if leader in worth_asking:
            return leader
        if worth_asking:
            return min(worth_asking, key=lambda each: each.failures)
        return min(self._all.values(), key=lambda each: each.quiet_until_s)

    def succeeded(self, connection: Connection) -> None:
        connection.failures = 0
        connection.quiet_until_s = 0.0

    def failed(self, connection: Connection) -> None:
        """Ask other brokers first for a while, which doubles with each failure in a row."""
        if connection.quiet_until_s > self._now_s():
            return  # calls in flight fail together and count once
        quiet_s = doubled_s(QUIET_FIRST_S, QUIET_MAX_S, connection.failures)
        connection.failures = min(connection.failures + 1, 16)
        connection.quiet_until_s = self._now_s() + quiet_s
        if self.leader == connection.address:
            self.leader = ""

    def suspect(self, address: str) -> None:
        """Ask other brokers first for a while: one of them could not reach this one."""
        if address in self._all:
            self.failed(self._all[address])

    def learn(self, leader: str, term: int) -> bool:
        """Note which broker leads in which term; True if a leader of a new term is named.

        An older term is ignored, and so is an impossible one. If two terms are too far apart for
        one cluster, the lower is believed: if it is wrong, calls only take one more hop.
        """
        if term >= TERM_MAX or (self.term and term > self.term + TERM_STEP_MAX):
            return False
        if term + TERM_STEP_MAX < self.term:
            self.term = self._leaders_term = 0
        if term < self.term:
            return False
        self.term = term
        if not leader:
            return False
        another = term > self._leaders_term
        self._leaders_term = term
        if leader != self._told[0]:
            self._told = (leader, self._dialled_as(leader))
        self.leader = self._told[1]
        return another

    def _dialled_as(self, leader: str) -> str:
        """The address at which to call a leader; empty if the given brokers forward to it."""
        try:
            address = canonical(leader)
        except ValueError:
            return ""
        known = next((each for each in self._all if canonical(each) == address), None)
        if known is not None:
            return known
        if self._follow_leader == "never" or (self._here and not _is_here(address)):
            return ""
        return self._connection(leader).address

    async def close(self) -> None:
        """Close every channel; later calls open others."""
        await asyncio.gather(*(connection.close() for connection in self._all.values()))

    def _connection(self, address: str) -> Connection:
        if address not in self._all:
            self._all[address] = Connection(address, converses=self._converses)
        return self._all[address]


def _is_here(address: str) -> bool:
    """Whether an address is on this machine."""
    host, _ = split(address)
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
