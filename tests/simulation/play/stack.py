"""The whole stack in one process: brokers, clients, workers, faults, and the checks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from chaos.history.calls import Answer, ClaimCall, ReadCall, ReportCall, SubmitCall
from chaos.history.model import TERMINAL
from chaos.history.record import Ledger
from chaos.history.verdict import check, report
from chaos.workloads.chains import Node, faults_of
from tests.scopes import scope_of
from tests.simulation.play.faults import USUAL_LATENCY_S, WEIGHTS
from tests.simulation.play.play import Kind, play
from tests.simulation.play.story import History, Script, Story
from tests.simulation.world.broker import Broker, api_address, state_hash
from tests.simulation.world.callers import Client, World
from tests.simulation.world.calls import ModelledCalls
from tests.simulation.world.checker import Checker, Violation
from tests.simulation.world.network import ModelledNetwork
from tests.simulation.world.virtual_loop import VirtualLoop
from tests.simulation.world.workers import EVERYTHING, QUEUES, Appetite, Worker, drawn_spec
from tq.v1 import task_pb2
from tq_cluster.core import invariants
from tq_cluster.leader import committer
from tq_cluster.raft.journal import JournalLimits
from tq_cluster.raft.log_api import Role
from tq_cluster.raft.settings import RaftSettings

SCRIPT = Script(
    for_s=10.0,
    weights={
        **WEIGHTS,
        "stop_worker": 4,
        "kill_worker": 3,
        "cut_off_caller": 4,
        "cancel": 8,
        "redrive": 4,
    },
    pause_s=(0.05, 0.7),
    steady=(("submit", 0.12), ("read", 0.15)),
)
CLIENTS = ("c1", "c2")
WORKERS = 3
FINISH_S = 60.0
"""The time within which every due task finishes once faults have stopped (I8)."""
JOURNAL = JournalLimits(
    segment_bytes=20_000, retain_bytes=60_000, retain_entries=60, cache_bytes=40_000
)


STEP_S = 0.001
"""The time of one step of a decision in every second story; in the others, none."""


@contextlib.contextmanager
def slow_deciding(step_s: float) -> Iterator[None]:
    """Let the event loop run after each step of a decision, for ``step_s``."""

    def later(_slices: object, go_on: Callable[[], None]) -> asyncio.Handle:
        return asyncio.get_running_loop().call_later(step_s, go_on)

    if not step_s:
        yield
        return
    with (
        mock.patch.object(committer, "SLICE_S", 0.0),
        mock.patch.object(committer, "_go_on_later", later),
    ):
        yield


class Stack:
    """Brokers, clients and workers."""

    def __init__(
        self,
        loop: VirtualLoop,
        seed: str,
        folder: Path,
        *,
        settings: RaftSettings,
        appetites: Sequence[Appetite] = (EVERYTHING,) * WORKERS,
        workers_begin_s: float = 0.0,
    ) -> None:
        """``appetites`` has the types that each worker and its replacements claim."""
        self.loop = loop
        self.draw = random.Random(seed)
        self.network = ModelledNetwork(loop, random.Random(f"{seed}/network"))
        self.calls = ModelledCalls(self.network)
        self.trace: list[str] = []
        names = ("n1", "n2", "n3")
        self.machines = [
            Broker(
                folder=folder / name,
                calls=self.calls,
                name=name,
                members={name: f"{name}:7000" for name in names},
                loop=loop,
                network=self.network,
                settings=settings,
                seed=seed,
                skewed=True,
                limits=JOURNAL,
            )
            for name in names
        ]
        self.checker = Checker({broker.name: broker for broker in self.machines})
        self.deaths: list[tuple[str, BaseException]] = []
        for broker in self.machines:
            broker.checker = self.checker
            broker.on_death = self._died
            broker.on_start.append(self._attend)
        self.graphs: list[list[Node]] = []
        """The graphs of tasks that were submitted; in the end, each task has ended as it should."""
        self.ledger = Ledger(now_s=loop.time)
        addresses = [api_address(name) for name in names]
        self._world = World(loop, self.calls, addresses, self.ledger)
        self.clients = [
            Client(self._world, name, random.Random(f"{seed}/{name}")) for name in CLIENTS
        ]
        self._hired = 0
        self._types = sorted({each for appetite in appetites for each in appetite.types})
        self._workers_begin_s = workers_begin_s
        self.workers: list[Worker] = []
        self._appetites: dict[str, Appetite] = {}
        for appetite in appetites:
            self._hire(appetite)

    def note(self, what: str) -> None:
        self.trace.append(f"{self.loop.time():.6f} {what}")

    def _attend(self, broker: Broker) -> None:
        broker.replica.on_role_change(
            lambda status: self.note(f"{broker.name} {status.role.value} {status.term}")
        )

    def _died(self, broker: Broker, error: BaseException) -> None:
        self.note(f"{broker.name} died: {error}")
        if not broker.disk.fail_syncs:
            self.deaths.append((broker.name, error))

    def _hire(self, appetite: Appetite) -> None:
        self._hired += 1
        draw = random.Random(self.draw.random())
        careless = draw.random() < 0.3
        name = f"w{self._hired}"
        worker = Worker(self._world, name, draw, careless=careless, appetite=appetite)
        self._appetites[name] = appetite
        self.workers.append(worker)
        if self.loop.time() < self._workers_begin_s:
            self.loop.call_at(self._workers_begin_s, self._begin, worker)
        else:
            worker.begin()

    def _begin(self, worker: Worker) -> None:
        if worker in self.workers:
            worker.begin()

    def leader(self) -> Broker | None:
        """The leader in the highest term."""
        leading = [
            broker
            for broker in self.machines
            if broker.up and broker.replica.status().role is Role.LEADER
        ]
        return max(leading, key=lambda broker: broker.replica.status().term, default=None)

    # ------------------------------------------------------------------ steps

    def kinds(self) -> dict[str, Kind]:
        """The kinds of steps of a story, beside the faults of brokers."""
        return {
            "submit": self._submit,
            "read": self._read,
            "cancel": self._cancel,
            "redrive": self._redrive,
            "stop_worker": self._stop_worker,
            "kill_worker": self._kill_worker,
            "cut_off_caller": self._cut_off_caller,
        }

    def _submit(self, draw: random.Random) -> None:
        client = draw.choice(self.clients)
        salt = f"{self.loop.time():.3f}"
        specs = [drawn_spec(draw, f"{salt}.{item}") for item in range(draw.choice((1, 1, 3)))]
        for spec in specs if self._types else ():
            spec.type = draw.choice([*self._types, spec.type])
        client.spawn(client.submit(specs))

    def _read(self, draw: random.Random) -> None:
        client = draw.choice(self.clients)
        if client.task_ids:
            newest = client.task_ids[-10:]
            client.spawn(client.read(draw.choice(newest)))

    def _cancel(self, draw: random.Random) -> None:
        client = draw.choice(self.clients)
        if client.task_ids:
            client.spawn(client.cancel(draw.choice(client.task_ids[-10:])))

    def _redrive(self, draw: random.Random) -> None:
        client = draw.choice(self.clients)
        client.spawn(client.redrive(draw.choice(QUEUES)))

    def _stop_worker(self, draw: random.Random) -> None:
        worker = draw.choice(self.workers)
        for_s = draw.uniform(0.2, 3.0)
        self.note(f"{worker.name} stands still for {for_s:.3f} s")
        worker.process.pause()
        self.loop.call_later(for_s, worker.process.resume)

    def _kill_worker(self, draw: random.Random) -> None:
        worker = draw.choice(self.workers)
        self.note(f"{worker.name} is killed")
        worker.process.end()
        self.calls.died(worker.name, silently=draw.random() < 0.5)
        self.workers.remove(worker)
        self._hire(self._appetites[worker.name])

    def _cut_off_caller(self, draw: random.Random) -> None:
        caller = draw.choice([*self.clients, *self.workers])
        for broker in self.machines:
            if draw.random() < 0.7:
                ways = [(caller.name, broker.name), (broker.name, caller.name)]
                for way in draw.choice((ways, ways[:1], ways[1:])):
                    self.note(f"nothing gets from {way[0]} to {way[1]}")
                    self.network.block(*way)
                    self.loop.call_later(draw.uniform(0.2, 3.0), self.network.unblock, *way)

    # ------------------------------------------------------------------ in the end

    async def settle(self) -> None:
        """End all faults, let every task finish, and check the whole history."""
        self.network.heal()
        self.network.conditions.latency_s = USUAL_LATENCY_S
        for broker in self.machines:
            broker.recover(self.draw)
        for worker in self.workers:
            worker.process.resume()
        auditor = Client(self._world, "auditor", random.Random(0))
        done: asyncio.Future[None] = self.loop.create_future()

        async def audit() -> None:
            await self._audit(auditor)
            done.set_result(None)

        auditor.spawn(audit())
        await self._within(FINISH_S, done)
        await self._until_equal()
        found = check(self.ledger)
        if found:
            raise Violation(report(self.ledger, found, at_most=3))
        self._check_graphs()

    async def _within(self, seconds: float, done: asyncio.Future[None]) -> None:
        finished, _ = await asyncio.wait([done], timeout=seconds)
        if not finished:
            raise Violation(f"not every task is finished {seconds} s after the faults have stopped")

    async def _audit(self, auditor: Client) -> None:
        """Wait until nothing is under way; then list and read every task."""
        listing: list[task_pb2.Task] | None = None
        while listing is None:
            await asyncio.sleep(0.25)
            leader = self.leader()
            if leader is None or not leader.leader.serving() or self._submitting():
                continue
            found = await auditor.list_all(api_address(leader.name))
            if all(task.state in TERMINAL for task in found):
                listing = found
        self.ledger.listed(listing)
        for task_id in sorted({task.spec.task_id for task in listing} | self._acknowledged()):
            await auditor.read(task_id)

    def _submitting(self) -> bool:
        return any(client.busy for client in self.clients)

    def _acknowledged(self) -> set[str]:
        return {task_id for client in self.clients for task_id in client.task_ids}

    def _check_graphs(self) -> None:
        """Compare the ends of tasks with those of the tasks that they waited for."""
        reads = [call for call in self.ledger.calls if isinstance(call, ReadCall)]
        last = {call.task_id: call.task for call in reads if call.task is not None}
        for graph in self.graphs:
            for node in graph:
                task = last[node.task_id]
                if task.cancel_reason == task_pb2.CANCEL_REASON_REQUESTED:
                    continue
                parents = {each.item: last[graph[each.item].task_id] for each in node.depends_on}
                for fault in faults_of(node, task, parents):
                    raise Violation(f"task {node.task_id} {fault}")

    async def _until_equal(self) -> None:
        end_s = self.loop.time() + 10.0
        while len({broker.store.applied for broker in self.machines}) > 1:
            assert self.loop.time() < end_s, "not every node comes to hold the same"
            await asyncio.sleep(0.05)
        hashes = {broker.name: state_hash(broker.store) for broker in self.machines}
        if len(set(hashes.values())) > 1:
            raise Violation(f"the states differ: {hashes}")
        wrong = invariants.violations(scope_of(self.machines[0].store.view()))
        if wrong:
            raise Violation(f"the state contradicts itself: {wrong[:3]}")
        self.checker.check_logs()

    def counts(self) -> dict[str, int]:
        """Counts of what happened."""
        calls = self.ledger.calls
        applied = [call for call in calls if call.answer is Answer.APPLIED]
        return {
            "calls": len(calls),
            "never answered": self.ledger.unknown(),
            "submits": sum(isinstance(call, SubmitCall) for call in applied),
            "claims": sum(isinstance(call, ClaimCall) and bool(call.grants) for call in applied),
            "reports": sum(isinstance(call, ReportCall) for call in applied),
            "reads": sum(isinstance(call, ReadCall) for call in applied),
        }


def whole_stack_history(
    story: Story,
    *,
    settings: RaftSettings | None = None,
    appetites: Sequence[Appetite] = (EVERYTHING,) * WORKERS,
    workers_begin_s: float = 0.0,
    drive: Callable[[Stack], Awaitable[None]] | None = None,
) -> History:
    """Run random faults, clients and workers; then stop the faults, and check the history.

    ``drive`` takes steps of its own in place of the story's.
    """
    trace: list[str] = []
    calls: list[str] = []
    counts: dict[str, int] = {}
    error: Exception | None = None
    brokers: list[Broker] = []
    shared = Path("/dev/shm")  # noqa: S108 - a file system in memory, where there is one
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    loop = VirtualLoop()

    async def run() -> None:
        stack = Stack(
            loop,
            str(story.seed),
            folder,
            settings=settings or RaftSettings(),
            appetites=appetites,
            workers_begin_s=workers_begin_s,
        )
        stack.trace = trace
        brokers.extend(stack.machines)
        try:
            for broker in stack.machines:
                await broker.start()
            if drive is None:
                await play(stack, story.steps(SCRIPT), story, stack.kinds())
            else:
                await drive(stack)
            await stack.settle()
            assert not stack.deaths, f"nodes died: {stack.deaths}"
        finally:
            counts.update(stack.counts())
            calls.extend(_told(stack))

    try:
        with slow_deciding(story.seed % 2 * STEP_S):
            loop.run(run())
    except Exception as failure:  # noqa: BLE001 - any error is a finding of the seed
        error = failure
    finally:
        loop.close()
        for broker in brokers:
            if broker.up:
                broker.store.close()
        shutil.rmtree(folder)
    return History(trace, counts, error, calls)


def _told(stack: Stack) -> list[str]:
    """Every call, a line each."""
    return [
        f"{call.began_s:.6f} {call.actor} {type(call).__name__} {call.answer.value}"
        f" at {call.ended_s} {call.detail}"
        for call in stack.ledger.calls
    ]
