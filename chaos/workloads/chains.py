"""Tasks that wait for other tasks, in random graphs, while leaders die.

The promise: none starts before enough of those that it waits for have ended as it asks, and each
ends as their ends say. It is computed from the ends alone, without any code of the brokers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.clients.worker import Plan, StubWorker
from chaos.cluster.stubs import seconds
from chaos.context import RunContext
from chaos.history.calls import Ending
from chaos.history.facts import Facts, TaskFacts
from chaos.history.violation import Violation
from chaos.nemeses.kill import KillAll, KillFollower, KillLeader
from chaos.nemeses.pause import PauseLeader
from chaos.scenario import Scenario
from chaos.workloads.background import Background
from tq.v1 import task_pb2

QUEUE = "chains"
NODES = 30
PARENTS_MAX = 4
DYING = 0.2
"""The share of tasks whose first attempt fails for good."""
SUBMIT_EVERY_S = 0.4
PROMISE = "dependencies"

Dependency = task_pb2.Dependency
CONDITIONS = (
    Dependency.CONDITION_COMPLETED,
    Dependency.CONDITION_COMPLETED,
    Dependency.CONDITION_NOT_COMPLETED,
    Dependency.CONDITION_ENDED,
)
OTHERWISES = (Dependency.OTHERWISE_FAIL, Dependency.OTHERWISE_SKIP)


@dataclass(frozen=True, slots=True)
class Node:
    """What was submitted of one task."""

    task_id: str
    depends_on: tuple[task_pb2.Dependency, ...]
    """Each names its parent by the position in the graph."""
    need: int


class Chains(Background):
    """Graphs of tasks, submitted one after the other; some tasks fail for good."""

    name = "chains"
    promise = (
        "a task starts once enough of those that it waits for have ended as it asks, not before,"
        " and ends with them if too few can"
    )

    def __init__(self) -> None:
        super().__init__()
        self._graphs: list[list[Node]] = []
        self._pace: asyncio.Task[None]

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        await super().start(context, addresses, seed)
        for number in (1, 2):
            name = f"chains-{number}"
            worker = StubWorker(addresses, context.ledger, name, QUEUE, lease_s=2.0, tasks_max=8)
            self.go_on(self.take(worker).run())
        self._pace = self.begin(self._submit(random.Random(seed)))

    async def settle(self) -> None:
        await self.stop(self._pace)

    async def judge(self, context: RunContext) -> None:
        for graph in self._graphs:
            tasks = [await self.client.read(node.task_id) for node in graph]
            for node, task in zip(graph, tasks, strict=True):
                if task is None:
                    context.accuse(PROMISE, f"task {node.task_id} is gone")
                elif all(tasks[each.item] is not None for each in node.depends_on):
                    parents = {
                        each.item: parent
                        for each in node.depends_on
                        if (parent := tasks[each.item]) is not None
                    }
                    for fault in faults_of(node, task, parents):
                        context.accuse(PROMISE, f"task {node.task_id} {fault}")

    def violations(self, facts: Facts) -> Iterator[Violation]:
        """Check by the calls alone that no task started before enough parents could have ended."""
        for graph in self._graphs:
            for node in graph:
                task = facts.tasks.get(node.task_id)
                started_s = None if task is None else _started_s(task)
                if started_s is None:
                    continue
                ended = sum(
                    _may_have_ended(facts.tasks.get(graph[each.item].task_id), started_s)
                    for each in node.depends_on
                )
                if ended < node.need:
                    yield Violation(
                        PROMISE,
                        f"task {node.task_id}: started when {ended} of the {node.need} that it"
                        " needs could have ended",
                        node.task_id,
                    )

    async def _submit(self, draw: random.Random) -> None:
        while True:
            specs, shape = _graph(draw)
            ids = await self.client.submit_together(specs)
            self._graphs.append(
                [Node(task_id, *node) for task_id, node in zip(ids, shape, strict=True)]
            )
            await asyncio.sleep(SUBMIT_EVERY_S)


def faults_of(node: Node, task: task_pb2.Task, parents: dict[int, task_pb2.Task]) -> Iterator[str]:
    """Yield what contradicts the ends of a task and of those that it waited for."""
    held = sum(_holds(each, parents[each.item]) for each in node.depends_on)
    ran = task.attempts_made > 0
    if held >= node.need:
        if not ran:
            yield f"never ran, and {held} of the {node.need} that it needs hold: {task}"
        return
    if ran:
        yield f"ran, and only {held} of the {node.need} that it needs hold"
        return
    by = [each for each in node.depends_on if parents[each.item].spec.task_id == task.ended_by]
    if not by:
        yield f"was ended by {task.ended_by!r}, which it does not wait for"
        return
    [edge] = by
    parent = parents[edge.item]
    if _holds(edge, parent):
        yield f"was ended by {task.ended_by}, which ended as it asks"
    found = (task.state, task.failure_reason, task.cancel_reason)
    right = _ended_by(edge, parent)
    if found != right:
        yield f"ended as {found}, and through {task.ended_by} it would as {right}"


def _holds(edge: task_pb2.Dependency, parent: task_pb2.Task) -> bool:
    if edge.condition == Dependency.CONDITION_ENDED:
        return True
    completed = (
        parent.state == task_pb2.TASK_STATE_COMPLETED
        or parent.cancel_reason == task_pb2.CANCEL_REASON_SKIPPED
    )
    return completed == (edge.condition == Dependency.CONDITION_COMPLETED)


def _ended_by(edge: task_pb2.Dependency, parent: task_pb2.Task) -> tuple[int, int, int]:
    """Return state, failure reason and cancel reason of a task that its last hope has ended."""
    cancelled, failed = task_pb2.TASK_STATE_CANCELLED, task_pb2.TASK_STATE_FAILED
    if edge.otherwise == Dependency.OTHERWISE_SKIP:
        return cancelled, 0, task_pb2.CANCEL_REASON_SKIPPED
    skipped = parent.cancel_reason == task_pb2.CANCEL_REASON_SKIPPED
    if parent.state == cancelled and not skipped:
        return cancelled, 0, task_pb2.CANCEL_REASON_DEPENDENCY
    return failed, task_pb2.FAILURE_REASON_DEPENDENCY, 0


def _started_s(task: TaskFacts) -> float | None:
    """Return an instant by which the task had started; None if it is not known that it did."""
    known = [call.known_by_s for lease in task.leases.values() for call, _ in lease.granted]
    return min(known, default=None)


def _may_have_ended(task: TaskFacts | None, by_s: float) -> bool:
    """Whether a report that may have ended the task was sent by then; true if it never ran."""
    reports = [
        report for lease in (task.leases.values() if task else ()) for report in lease.reports
    ]
    if not reports:
        return task is None or not task.leases
    return any(report.began_s <= by_s for report in reports)


def _graph(
    draw: random.Random,
) -> tuple[list[task_pb2.TaskSpec], list[tuple[tuple[task_pb2.Dependency, ...], int]]]:
    specs, shape = [], []
    for number in range(NODES):
        parents = draw.sample(range(number), draw.randint(0, min(number, PARENTS_MAX)))
        depends_on = tuple(
            Dependency(
                item=parent, condition=draw.choice(CONDITIONS), otherwise=draw.choice(OTHERWISES)
            )
            for parent in parents
        )
        need = draw.choice((0, 0, draw.randint(0, len(parents))))
        dies = draw.random() < DYING
        plan = Plan(
            work_s=draw.choice((0.0, 0.0, 0.05)),
            first_attempt_ends=Ending.FAIL if dies else Ending.COMPLETE,
            permanent=dies,
        )
        specs.append(
            task_pb2.TaskSpec(
                queue=QUEUE,
                type="planned",
                payload=plan.payload(f"node {number} {draw.random()}"),
                max_attempts=50,
                retry_policy=task_pb2.RetryPolicy(initial_backoff=seconds(0.1)),
                depends_on=depends_on,
                need=need,
            )
        )
        shape.append((depends_on, need or len(depends_on)))
    return specs, shape


SCENARIOS = (
    Scenario(
        name="chains",
        summary="graphs of tasks that wait for each other, while nodes die and fall silent",
        nemeses=(KillLeader, KillFollower, KillAll, PauseLeader),
        workloads=(Chains,),
        duration_s=6,
    ),
)
