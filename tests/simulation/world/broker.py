"""A machine with the whole of a broker on it: log, LMDB state, leader, and the API without gRPC."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tests.simulation.world.calls import ModelledCalls, ModelledLinks, ServedCall, Server
from tests.simulation.world.host import Machine
from tests.simulation.world.state import Applied
from tests.simulation.world.virtual_loop import HostLoop
from tq_cluster.beats import next_beat_s
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads import queries
from tq_cluster.leader.leader import Formation, Leader
from tq_cluster.raft.formation import Membership
from tq_cluster.raft.log_api import StateMachine
from tq_cluster.raft.members import contradiction
from tq_cluster.raft.snapshots import States
from tq_cluster.raft.startup import align
from tq_cluster.raft.state_files import StateFiles
from tq_cluster.reading import Reading
from tq_cluster.service.admission import Admission
from tq_cluster.service.call import Method
from tq_cluster.service.entrance import Context, Entrance
from tq_cluster.service.forwarding import Forwarder
from tq_cluster.service.links import Links
from tq_cluster.service.peer_authentication import PeerProof
from tq_cluster.service.queue import QueueServicer
from tq_cluster.service.reads import Reads
from tq_cluster.service.roles import Roles
from tq_cluster.service.routing import Router
from tq_cluster.service.staleness import Staleness
from tq_cluster.service.tasks import TaskServicer
from tq_cluster.service.ways import Ways
from tq_cluster.service.worker import WorkerServicer
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.rows import TABLE_COUNT
from tq_cluster.storage.store import Store

CALLS_MAX = 1_000
HASH_EVERY = 16
"""The whole state is hashed if the index is a multiple of this: the same on every node."""
_END_OF_TABLE = b"\xff" * 511
_ALL_ROWS = 1 << 40


def api_address(name: str) -> str:
    """The address at which a broker answers calls."""
    return f"{name}:7100"


def state_hash(store: Store) -> str:
    """The hash of the whole state."""
    digest = hashlib.sha256()
    view = store.view()
    for table in range(TABLE_COUNT):
        for key, value in view.scan(table, b"", _END_OF_TABLE, limit=_ALL_ROWS):
            digest.update(b"%d %d %d " % (table, len(key), len(value)) + key + value)
    return digest.hexdigest()[:16]


class WatchedState:
    """Implements ``door.StateMachine``: the store, with the checker informed of every entry."""

    def __init__(self, store: Store, saw: Callable[[Applied], None]) -> None:
        self.store = store
        self._saw = saw

    @property
    def applied(self) -> AppliedAt:
        return self.store.applied

    @property
    def durable(self) -> AppliedAt:
        return self.store.durable

    @property
    def full(self) -> bool:
        return self.store.full

    def apply(self, index: int, term: int, entry: bytes) -> bool:
        took_effect = self.store.apply(index, term, entry)
        self._saw((index, term, entry))
        return took_effect


class Broker(Machine):
    """Its state is LMDB in a directory. Uncommitted writes are lost with the process.

    A crash loses nothing else: a commit is on the disk when it returns, and CURRENT and the
    snapshots are fsynced before they are used.
    """

    leader: Leader

    def __init__(self, *, folder: Path, calls: ModelledCalls, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._folder = folder
        self._store: Store | None = None
        self._calls = calls
        self._methods: dict[str, Method] = {}
        self._router: Router

    @property
    def store(self) -> Store:
        """The store that was last open."""
        assert self._store is not None, f"{self.name} was never started"
        return self._store

    @property
    def state_index(self) -> int:
        return 0 if self._store is None else self._store.durable.index

    # ------------------------------------------------------------------ the process

    def _open_state(self, draw: random.Random) -> tuple[StateMachine, States]:
        del draw
        directory = StateDirectory(self._folder)
        self._store = Store(directory.current.path)
        align(self.journal, self.store.applied, directory.current.installed)
        directory.clear_mark()
        state = WatchedState(self.store, self._saw_applied)
        return state, StateFiles(
            self.store,
            directory,
            self.host_loop,
            lambda membership: contradiction(self.identity, membership),
        )

    def _membership(self) -> Membership | None:
        return queries.membership(self.store.view())

    def _saw_applied(self, applied: Applied) -> None:
        super()._saw_applied(applied)
        index = applied[0]
        if self.checker is not None and index % HASH_EVERY == 0:
            self.checker.hashed(self, index, state_hash(self.store))

    def _commit_state(self, host_loop: HostLoop) -> None:
        """Commit the state as node.py does."""
        if host_loop is self.host_loop:
            if self.store.commit_due(host_loop.time()):
                self.store.commit()
            host_loop.call_at(next_beat_s(host_loop.time()), self._commit_state, host_loop)

    def _attach(self, draw: random.Random) -> None:
        reading = Reading()
        self.leader = Leader(
            node_id=self.name,
            log=self.replica,
            state=self.store,
            reading=reading,
            clock=self.clock,
            draw=draw,
            members=len(self._members),
            formation=self._formation,
            fatal=self._died,
        )
        apis = {name: api_address(name) for name in self._members}
        roles = Roles(self.replica, self.name, apis)
        proof = PeerProof(self._membership)
        links = cast("Links", ModelledLinks(self._calls, self.name, self.host_loop))
        ways = Ways(
            node_id=self.name,
            forward_address=lambda _: None,
            links=links,
            proof=proof,
            now_s=self.clock.monotonic_s,
        )
        admission = Admission(CALLS_MAX)
        self._router = Router(
            roles=roles,
            forwarder=Forwarder(
                node_id=self.name, links=links, ways=ways, roles=roles, proof=proof
            ),
            entrance=Entrance(term=lambda: roles.term, proof=proof, admission=admission),
            admission=admission,
            cluster_version=lambda: queries.cluster_version(self.store.view()),
            jitter=draw,
            fatal=self._died,
        )
        staleness = Staleness(clock=self.clock, log=self.replica, written_ms=self.clock.wall_ms())
        reads = Reads(
            leading=self.leader, committed=self.store, staleness=staleness, reading=reading
        )
        for servicer in (
            TaskServicer(leading=self.leader, reads=reads),
            WorkerServicer(leading=self.leader),
            QueueServicer(leading=self.leader, reads=reads),
        ):
            for method in servicer.methods():
                self._methods[f"/{servicer.name}/{method.name}"] = method
        server = Server(self.name, self.host_loop, self._answer)
        self._calls.serve(api_address(self.name), server)

    async def _answer(self, path: str, served: ServedCall) -> bytes:
        return await self._router.answer(self._methods[path], path, cast("Context", served))

    def _formation(self) -> Formation | None:
        membership = self.replica.formation()
        return None if membership is None else Formation(membership[0], membership[1])

    def _end_process(self, *, silently: bool) -> Callable[[], None] | None:
        job = super()._end_process(silently=silently)
        self._calls.died(self.name, silently=silently)
        self.store.close()
        return job
