"""The service of one node, put together."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tq.v1.cluster_service_pb2 import NodeStatus
from tq_cluster.beats import next_beat_s
from tq_cluster.clock import Clock
from tq_cluster.core.model.namespaces import ONLY_DEFAULT, Namespaces
from tq_cluster.raft.log_api import Log
from tq_cluster.reading import Reading
from tq_cluster.service.admission import Admission
from tq_cluster.service.authorization import (
    Authenticate,
    Authorize,
    Authorizer,
    authenticate,
    authorize,
)
from tq_cluster.service.backend import Committed, Leading
from tq_cluster.service.backups import Backups, CopyState
from tq_cluster.service.cluster import ClusterServicer
from tq_cluster.service.conversations import Conversations
from tq_cluster.service.entrance import Entrance
from tq_cluster.service.forwarding import Forwarder
from tq_cluster.service.health import Health
from tq_cluster.service.links import Links
from tq_cluster.service.peer_authentication import Membership, PeerProof, Secret
from tq_cluster.service.queue import QueueServicer
from tq_cluster.service.reads import Reads
from tq_cluster.service.replacement import Replacement
from tq_cluster.service.roles import KnownLeader, Roles
from tq_cluster.service.routing import Router
from tq_cluster.service.server import Servicer, bind, build_server, build_server_for_nodes
from tq_cluster.service.staleness import Staleness
from tq_cluster.service.status import PEER_DEADLINE_S, ClusterFacts, StatusBoard, Vitals
from tq_cluster.service.tasks import TaskServicer
from tq_cluster.service.ways import KEEP_S, ForwardAddress, Ways
from tq_cluster.service.worker import WorkerServicer
from tq_process import sources

if TYPE_CHECKING:
    from tq_cluster.telemetry.spans import Tracing

TICK_BEATS = 2
DRAIN_S = 1.0
"""How long calls that need another node's answer may still take while this node stops."""
GRACE_S = 3.0
NODES_CONNECTIONS_MAX = 64
"""At the port for forwarded calls: each node has one there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The parts of the service."""

    node_id: str
    apis: Mapping[str, str]
    """Every member's API address by node id."""
    log: Log
    leading: Leading
    committed: Committed
    reading: Reading
    clock: Clock
    vitals: Callable[[float | None], Vitals]
    """Called with how many seconds to look back for holds of the loop; None: the usual span."""
    facts: Callable[[], ClusterFacts]
    state_committed: Callable[[], Awaitable[None]]
    """Returns once everything applied by now is in a commit of the state."""
    copy_state: CopyState
    membership: Callable[[], Membership | None]
    state_written_ms: int
    """When the state was last written before this start, by the wall clock."""
    calls_max: int
    jitter: random.Random
    fatal: Callable[[BaseException], None]
    """Called with errors that should never happen; ends the process."""
    authenticate: Authenticate = authenticate
    authorize: Authorize = authorize
    tracing: Tracing | None = None
    connections_max: int = 10_000
    """Callers' connections at a time."""
    forward_address: ForwardAddress = lambda _node_id: None
    """Where a node takes forwarded calls; None: at its API."""
    secret: Secret | None = None
    """The secret that the brokers share."""
    namespaces: Namespaces = ONLY_DEFAULT
    held_bytes: Callable[[], int] = lambda: 0
    """How much memory the process holds."""


def _authorizer(parts: Dependencies) -> Authorizer | None:
    """Return None if every call is allowed: then no call pays for being checked."""
    if parts.authorize is authorize:
        return None
    return Authorizer(
        parts.authorize,
        leading=parts.leading,
        committed=parts.committed,
        reading=parts.reading,
    )


class Service:
    """Everything that listens at a node's API address."""

    def __init__(self, parts: Dependencies) -> None:
        self._fatal = parts.fatal
        self._leading = parts.leading
        self._links = Links()
        roles = Roles(parts.log, parts.node_id, parts.apis)
        proof = PeerProof(parts.membership, parts.secret)
        self._ways = Ways(
            node_id=parts.node_id,
            forward_address=parts.forward_address,
            links=self._links,
            proof=proof,
            now_s=asyncio.get_running_loop().time,
        )
        self._others = sorted(set(parts.apis) - {parts.node_id})
        forwarder = Forwarder(
            node_id=parts.node_id, links=self._links, ways=self._ways, roles=roles, proof=proof
        )
        self.admission = Admission(parts.calls_max)
        self._router = Router(
            roles=roles,
            forwarder=forwarder,
            entrance=Entrance(
                term=lambda: roles.term,
                proof=proof,
                admission=self.admission,
                authenticate=parts.authenticate,
                namespaces=parts.namespaces,
            ),
            admission=self.admission,
            authorizer=_authorizer(parts),
            cluster_version=lambda: parts.facts().cluster_version,
            tracing=parts.tracing,
            jitter=parts.jitter,
            fatal=parts.fatal,
        )
        self._staleness = Staleness(
            clock=parts.clock, log=parts.log, written_ms=parts.state_written_ms
        )
        reads = Reads(
            leading=parts.leading,
            committed=parts.committed,
            staleness=self._staleness,
            reading=parts.reading,
        )
        self._ask_at_s = 0.0
        self._asking: set[asyncio.Task[NodeStatus]] = set()
        self.board = StatusBoard(
            node_id=parts.node_id,
            apis=parts.apis,
            log=parts.log,
            links=self._links,
            ways=self._ways,
            vitals=parts.vitals,
            facts=parts.facts,
            reading=parts.reading,
        )
        led: tuple[Servicer, ...] = (
            TaskServicer(
                leading=parts.leading,
                reads=reads,
                tracing=parts.tracing,
            ),
            WorkerServicer(leading=parts.leading, tracing=parts.tracing),
            QueueServicer(leading=parts.leading, reads=reads),
        )
        cluster = ClusterServicer(
            log=parts.log,
            leading=parts.leading,
            board=self.board,
            backups=Backups(
                log=parts.log, committed=parts.state_committed, copy_state=parts.copy_state
            ),
            replacement=Replacement(node_id=parts.node_id, log=parts.log, leading=parts.leading),
            members=parts.apis,
        )
        self.conversations = Conversations(self._router, led, parts.held_bytes)
        self._health = Health(
            log=parts.log,
            roles=roles,
            led=[servicer.name for servicer in (*led, self.conversations)],
            always=[cluster.name],
        )
        self.servicers: tuple[Servicer, ...] = (*led, cluster, self.conversations)
        self._server = build_server(
            self.servicers, self._router, self._health, connections_max=parts.connections_max
        )
        self._server_for_nodes = build_server_for_nodes(
            self.servicers, self._router, connections_max=NODES_CONNECTIONS_MAX
        )
        self._listening_for_nodes: list[socket.socket] = []
        self._next_tick: asyncio.Handle | None = None
        """None until started and once stopped."""
        roles.on_leader(self._leader_changed)

    @property
    def calls(self) -> int:
        """Calls held now."""
        return self.admission.calls

    def bind(self, address: str) -> int:
        """Bind the port at ``address`` and return it; StartError if that fails."""
        return bind(self._server, address)

    def bind_for_nodes(self, address: str) -> int:
        """Bind the port for forwarded calls, and return it; StartError as above."""
        port = bind(self._server_for_nodes, address, "the port for other brokers' calls")
        self._listening_for_nodes = sources.listening_at(port)
        return port

    def let_nodes_in(self, hosts: Collection[str]) -> None:
        """Allow connections to that port from these hosts alone, if the system supports it."""
        for listening in self._listening_for_nodes:
            sources.let_in_only(listening, hosts)

    async def start(self) -> None:
        """Start answering calls."""
        self._health.refresh()
        await self._server_for_nodes.start()
        await self._server.start()
        self._next_tick = asyncio.get_running_loop().call_soon(self._tick)

    async def show_stopping(self) -> None:
        """Publish NOT_SERVING, so that balanced clients go elsewhere; calls are still answered."""
        self._health.stop()

    async def stop(self) -> None:
        """Take no more calls, let running ones end, and close."""
        for listening in self._listening_for_nodes:
            listening.close()
        self._listening_for_nodes.clear()
        self.conversations.stop()
        drain = asyncio.get_running_loop().call_later(DRAIN_S, self._drain)
        try:
            await asyncio.gather(self._server.stop(GRACE_S), self._server_for_nodes.stop(GRACE_S))
        finally:
            drain.cancel()
        if self._next_tick is not None:
            self._next_tick.cancel()
            self._next_tick = None
        for asking in self._asking:
            asking.cancel()
        await self._links.close()

    def _drain(self) -> None:
        self._router.drain()
        self._leading.stop()

    def _leader_changed(self, _leader: KnownLeader | None) -> None:
        if self._next_tick is not None:
            self._next_tick.cancel()
            self._next_tick = asyncio.get_running_loop().call_soon(self._tick)

    def _keep_connections(self) -> None:
        """Connect to the nodes' listeners ahead: a call uses one only if it is established."""
        now_s = asyncio.get_running_loop().time()
        asks = now_s >= self._ask_at_s
        if asks:
            self._ask_at_s = now_s + KEEP_S
        for node_id in self._others:
            if self._ways.keep(node_id) and asks:
                asking = asyncio.create_task(self.board.ask(node_id, PEER_DEADLINE_S))
                self._asking.add(asking)
                asking.add_done_callback(self._asking.discard)

    def _tick(self) -> None:
        try:
            self._keep_connections()
            self._staleness.sample()
            self._health.refresh()
        except Exception as error:  # noqa: BLE001  # handed on: without ticks answers go wrong
            self._fatal(error)
            return
        loop = asyncio.get_running_loop()
        self._next_tick = loop.call_at(next_beat_s(loop.time(), TICK_BEATS), self._tick)
