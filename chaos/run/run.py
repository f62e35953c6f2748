"""One run of a scenario, from the first node's start to the verdict."""

from __future__ import annotations

import asyncio
import random
import shlex
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from chaos.clients.load import QUEUE, Load, wrong_results
from chaos.cluster import containers, netlab
from chaos.cluster.broker import NodeSetup
from chaos.cluster.cluster import Cluster, FactMissingError
from chaos.cluster.commands import CommandFailedError
from chaos.cluster.containers import ContainerCluster
from chaos.cluster.netlab import NetlabCluster
from chaos.cluster.outside import OutsideCluster
from chaos.cluster.processes import ProcessCluster
from chaos.cluster.stubs import StubRefusedError, UnansweredError
from chaos.cluster.verify import differences
from chaos.context import Happening, Injected, RunContext
from chaos.history.facts import Facts
from chaos.history.outages import Outage, outage
from chaos.history.record import Ledger
from chaos.history.violation import Violation
from chaos.nemeses.nemesis import Nemesis, Transport
from chaos.run.mutants import Mutant
from chaos.run.watch import Sight, Watch
from chaos.scenario import Order, Scenario
from chaos.workload import Workload

QUIET_S = (0.3, 1.0)
"""How long a cluster runs without a fault between two faults."""
FINISH_S = 90.0
FINDINGS = (FactMissingError, UnansweredError, StubRefusedError, CommandFailedError)
"""A promised result did not arrive, or an allowed call was refused; the errors say what was
seen."""
AT_ONCE_MAX = 2
"""How many faults ``Order.AT_RANDOM`` lays on top of each other."""


@dataclass(slots=True, kw_only=True)
class Plan:
    """The plan of a run."""

    scenario: Scenario
    seed: int
    duration_s: float
    transport: Transport
    against: Sequence[str] = ()
    """Addresses of an existing cluster, for ``Transport.OUTSIDE``."""
    mutant: Mutant | None = None
    """A bug to plant in every node."""

    @property
    def arguments(self) -> list[str]:
        """The arguments that repeat this run, after ``python -m chaos``."""
        where = ["--transport", self.transport.value]
        if self.transport is Transport.OUTSIDE:
            where = ["--against", ",".join(self.against)]
        if self.mutant is not None:
            where += ["--mutant", self.mutant.bug]
        return [
            *("run", "--scenario", self.scenario.name, "--seed", str(self.seed)),
            *("--duration", f"{self.duration_s:g}", *where),
        ]

    @property
    def command(self) -> str:
        """The shell command that repeats this run."""
        return shlex.join(["python", "-m", "chaos", *self.arguments])

    @property
    def run_name(self) -> str:
        """The name of the run's files."""
        bug = f"-{self.mutant.bug.replace(' ', '-')}" if self.mutant else ""
        return f"{self.scenario.name}-{self.transport}-{self.seed}{bug}"


@dataclass(slots=True, kw_only=True)
class Played:
    """Everything that a run leaves behind."""

    plan: Plan
    ledger: Ledger
    happenings: list[Happening]
    sights: dict[str, list[Sight]]
    violations: list[Violation]
    injected: dict[str, int]
    not_injected: dict[str, str]
    outages: list[Outage]
    took_s: float
    error: str = ""
    """The traceback of an error of the suite itself."""


def obstacle(plan: Plan, nemesis: Nemesis) -> str | None:
    """Say why this nemesis cannot strike in this run; None when it can."""
    if plan.transport not in nemesis.transports:
        kinds = " or ".join(sorted(nemesis.transports))
        return f"{nemesis.name} needs nodes as {kinds}, not {plan.transport}"
    return nemesis.needs()


def no_cluster(plan: Plan) -> str | None:
    """Say why this kind of cluster cannot be made here."""
    if plan.transport is Transport.NETLAB:
        return netlab.missing()
    if plan.transport is Transport.CONTAINERS:
        return containers.missing()
    return None


async def play(plan: Plan, folder: Path, tell: Callable[[str], None] | None = None) -> Played:
    """Play the plan. The nodes write their files below ``folder``."""
    run = _Run(plan, folder, tell)
    started_s = time.monotonic()
    error = ""
    try:
        async with AsyncExitStack() as stack:
            await run.whole(stack)
    except Exception as caught:  # noqa: BLE001  # reported, with everything that is known
        leaves = list(_leaves(caught))
        if all(isinstance(one, FINDINGS) for one in leaves):
            run.violations += [Violation("available", str(one)) for one in leaves]
        else:
            error = traceback.format_exc()
    return Played(
        plan=plan,
        ledger=run.ledger,
        happenings=run.happenings,
        sights=run.watch.sights if run.watch else {},
        violations=run.violations,
        injected=run.injected,
        not_injected=run.not_injected,
        outages=run.outages,
        took_s=time.monotonic() - started_s,
        error=error,
    )


def workloads_violations(workloads: Sequence[Workload], ledger: Ledger) -> list[Violation]:
    """Find what each workload's own promise says against the history."""
    if not workloads:
        return []
    facts = Facts(ledger)
    return [violation for workload in workloads for violation in workload.violations(facts)]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The single errors, as each task of a group may have raised its own."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


class _Run:
    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None] | None) -> None:
        self.plan = plan
        self._folder = folder
        self._tell = tell
        self._draw = random.Random(plan.seed)
        made = [make() for make in plan.scenario.nemeses]
        obstacles = {nemesis.name: obstacle(plan, nemesis) for nemesis in made}
        self.not_injected = {name: why for name, why in obstacles.items() if why is not None}
        self._nemeses = [nemesis for nemesis in made if obstacles[nemesis.name] is None]
        self._workloads = [make() for make in plan.scenario.workloads]
        self.injected = {nemesis.name: 0 for nemesis in self._nemeses}
        self.ledger = Ledger(time.monotonic)
        self.happenings: list[Happening] = []
        self.violations: list[Violation] = []
        self.outages: list[Outage] = []
        self.watch: Watch | None = None

    async def whole(self, stack: AsyncExitStack) -> None:
        """Set up, inject and heal faults, finish and check; ``stack`` takes all of it down."""
        node_ids = [f"n{number + 1}" for number in range(self.plan.scenario.nodes)]
        for nemesis in self._nemeses:
            stack.push_async_callback(nemesis.cleanup)
            await nemesis.prepare(self._folder, node_ids)
        cluster = self._cluster()
        stack.push_async_callback(cluster.close)
        await cluster.start()
        self.watch = Watch(cluster, self.ledger.now_s)
        self.watch.start()
        stack.push_async_callback(self.watch.stop)
        addresses: Sequence[str] = cluster.addresses
        for nemesis in self._nemeses:
            addresses = await nemesis.front(addresses)
        outside = self.plan.transport is Transport.OUTSIDE
        load = Load(
            cluster,
            queue=f"chaos-{uuid.uuid4()}" if outside else QUEUE,
            shared=outside or self.plan.scenario.others_tasks,
            lease_s=self.plan.scenario.lease_s,
            seed=self.plan.seed,
            ledger=self.ledger,
            addresses=addresses,
        )
        context = RunContext(cluster, load, addresses, self.happenings, self.violations, self._tell)
        await stack.enter_async_context(load)
        for workload in self._workloads:
            stack.push_async_callback(workload.close)
            await workload.start(context, addresses, self.plan.seed)
        await load.await_under_way()
        try:
            await self._rage(context)
        finally:
            for nemesis in self._nemeses:
                await nemesis.heal(context)
        await self._finish(context)

    def _cluster(self) -> Cluster:
        def setup(node_id: str) -> NodeSetup:
            asked = self.plan.mutant.setup if self.plan.mutant else NodeSetup()
            for nemesis in self._nemeses:
                asked = asked.with_(nemesis.setup(node_id))
            return asked

        nodes, folder = self.plan.scenario.nodes, self._folder / "cluster"
        match self.plan.transport:
            case Transport.PROCESSES:
                return ProcessCluster(folder, nodes=nodes, setup=setup)
            case Transport.NETLAB:
                return NetlabCluster(folder, nodes=nodes, setup=setup)
            case Transport.CONTAINERS:
                return ContainerCluster()
            case Transport.OUTSIDE:
                return OutsideCluster(self.plan.against)

    async def _rage(self, context: RunContext) -> None:
        """Inject and heal until the time is up and every nemesis has struck once."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.plan.duration_s
        if not self._nemeses:
            await asyncio.sleep(self.plan.duration_s)
            return
        while True:
            if self.plan.scenario.order is Order.IN_TURN:
                for nemesis in self._nemeses:
                    await self._strike(context, [nemesis])
            else:
                await self._strike(context, self._drawn())
            if loop.time() >= until_s:
                return

    def _drawn(self) -> list[Nemesis]:
        """Draw one nemesis, or several that can be combined."""
        first = self._draw.choice(self._nemeses)
        others = [one for one in self._nemeses if one is not first and not one.alone]
        if first.alone or not others:
            return [first]
        count = self._draw.randint(0, min(AT_ONCE_MAX - 1, len(others)))
        return [first, *self._draw.sample(others, count)]

    async def _strike(self, context: RunContext, nemeses: Sequence[Nemesis]) -> None:
        """Inject, hold, heal, and wait until the cluster is healthy again."""
        happenings: list[Happening] = []
        for nemesis in nemeses:
            # Inject on top of another fault only while there is a leader: a nemesis may need to
            # find it.
            if happenings and not await self._led(context):
                break
            began_s = context.ledger.now_s()
            deed = await nemesis.inject(context, self._draw)
            self.injected[nemesis.name] += 1
            since_s = began_s if deed.broke_s is None else deed.broke_s
            happenings.append(context.begin(nemesis.name, deed, since_s=since_s))
            await asyncio.sleep(self._draw.uniform(*nemesis.hold_s))
        for nemesis in reversed(nemeses):
            await nemesis.heal(context)
        for happening in happenings:
            context.end(happening)
        healed_s = context.ledger.now_s()
        within_s = max(nemesis.within_s for nemesis in nemeses)
        await context.load.await_acknowledgement(within_s, since_s=healed_s)
        await context.cluster.await_caught_up(context.cluster.nodes, within_s)
        for happening in happenings:
            measured = outage(context.ledger, happening.began_s)
            if measured is not None:
                self.outages.append(measured)
        await asyncio.sleep(self._draw.uniform(*QUIET_S))

    async def _led(self, context: RunContext) -> bool:
        cluster = context.cluster
        return len(cluster.standing) >= cluster.majority and bool(await cluster.leader_now())

    async def _finish(self, context: RunContext) -> None:
        closing = context.begin("finish", Injected("no new work; every task finishes"))
        for workload in self._workloads:
            await workload.settle()
        self.violations += await context.load.finish(FINISH_S)
        for workload in self._workloads:
            await workload.judge(context)
        self.violations += workloads_violations(self._workloads, context.ledger)
        if self.plan.transport is not Transport.OUTSIDE:
            for difference in await differences(context.cluster, FINISH_S):
                context.accuse("I7", difference)
        context.end(closing)
        for task_id in sorted(wrong_results(context.ledger)):
            context.accuse("I5", f"task {task_id}: its result is not what its payload gives")
        for name, node in context.cluster.nodes.items():
            unexcused = [line for line in node.complaints() if not self._excused(line)]
            for line in unexcused[:5]:
                context.accuse("sound", f"{name} logged an error of its own: {line}")

    def _excused(self, line: str) -> bool:
        return any(excuse in line for nemesis in self._nemeses for excuse in nemesis.excuses)
