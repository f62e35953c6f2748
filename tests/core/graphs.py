"""Graphs of tasks that wait for each other, run on the queue and on the naive one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.core.lone_queue import LoneQueue, replied, spec
from tests.core.naive import NaiveEdge, NaiveQueue, NaiveTask
from tq.v1 import queue_service_pb2, task_pb2, worker_service_pb2

Dependency = task_pb2.Dependency
CONDITIONS = ("COMPLETED", "NOT_COMPLETED", "ENDED")
OTHERWISES = ("FAIL", "SKIP")
KEPT_MS = 10**9
"""No task is past its retention."""
ENDS = ("complete", "fail", "cancel")

Way = tuple[str, str]
"""Condition and otherwise of a dependency."""
WAYS: tuple[Way, ...] = tuple(itertools.product(CONDITIONS, OTHERWISES))


@dataclass(frozen=True)
class Node:
    """A task: what it depends on among the nodes before it, and how many of these have to hold."""

    on: tuple[tuple[int, Way], ...] = ()
    need: int = 0


Graph = Sequence[Node]


class Run:
    """A graph on both queues; each move is made on both, and then all tasks are compared."""

    def __init__(self, graph: Graph, *, submitted_late: int = 0, audited: bool = True) -> None:
        """The last ``submitted_late`` nodes are left to `submit_late`."""
        self.graph = graph
        self.queue = LoneQueue(audited=audited)
        self.naive = NaiveQueue(self.queue.now_ms)
        self.tokens: dict[str, worker_service_pb2.ClaimedTask] = {}
        self._late = len(graph) - submitted_late
        self._submit(range(self._late))

    def submit_late(self) -> None:
        self._submit(range(self._late, len(self.graph)))

    def end(self, node: int, how: str) -> None:
        """Let a task end so; nothing if it cannot."""
        name = f"n{node}"
        task = self.naive.find(name)
        if task is None:
            return
        if how == "cancel":
            if task.state in ("BLOCKED", "PENDING"):
                self.queue.cancel(name)
                self.naive.cancel(name)
        elif task.state == "PENDING":
            claimed = self._claim(name)
            kind = "complete" if how == "complete" else "fail for good"
            self.naive.report(name, claimed.token, kind, 0)
            if how == "complete":
                self.queue.complete(claimed)
            else:
                self.queue.fail(claimed, permanent=True)
        self.compare()

    def start(self, node: int) -> None:
        """Let a task run, if it is ready; it ends by nothing but a redrive of its parents."""
        task = self.naive.find(f"n{node}")
        if task is not None and task.state == "PENDING":
            self._claim(task.id)
            self.compare()

    def redrive(self, node: int, *, force: bool = False) -> bool:
        """Redrive a task by its id; return whether that was allowed."""
        name = f"n{node}"
        task = self.naive.find(name)
        allowed = (
            task is not None
            and task.state == "FAILED"
            and self.naive.may_be_redriven(task, force=force)
        )
        reply = replied(self.queue.redrive(name, force=force), queue_service_pb2.RedriveResponse)
        assert bool(reply.redriven) == allowed, f"redrive of {name}: {reply}"
        if allowed:
            assert task is not None
            self.naive.redrive(task)
        self.compare()
        return allowed

    def delete(self, node: int) -> None:
        """Delete a dead letter by its id, if that is allowed."""
        name = f"n{node}"
        task = self.naive.find(name)
        allowed = (
            task is not None
            and task.state == "FAILED"
            and not self.naive.needed(task, is_dead=True)
        )
        reply = replied(self.queue.delete(name), queue_service_pb2.DeleteDeadLettersResponse)
        assert bool(reply.deleted) == allowed, f"deletion of {name}: {reply}"
        if allowed:
            assert task is not None
            self.naive.remove(task)
        self.compare()

    def compare(self) -> None:
        """Every task stands the same on both queues."""
        self.naive.tell_dependents()
        self.queue.go_on()
        for task in self.naive.tasks:
            seen = self.queue.task(task.id)
            failure = task_pb2.FailureReason.Name(seen.failure_reason)
            why = task_pb2.CancelReason.Name(seen.cancel_reason)
            found = (
                self.queue.state(task.id),
                failure.removeprefix("FAILURE_REASON_").replace("UNSPECIFIED", ""),
                why.removeprefix("CANCEL_REASON_").replace("UNSPECIFIED", ""),
                seen.redrives,
            )
            expected = (task.state, task.failure, task.why, task.redrives)
            assert found == expected, f"{task.id}: {found}, the naive queue has {expected}"
            if self.naive.find(task.ended_by) is not None:
                assert seen.ended_by == task.ended_by, task.id

    def _claim(self, name: str) -> worker_service_pb2.ClaimedTask:
        if name not in self.tokens or not self._is_held(name):
            for claimed in self.queue.claimed(100):
                self.tokens[claimed.spec.task_id] = claimed
                task = self.naive.find(claimed.spec.task_id)
                assert task is not None
                if claimed.spec.task_id == name:
                    self.naive.start(task, claimed.token)
                else:
                    self.queue.release(claimed)
                    task.token = claimed.token
        return self.tokens[name]

    def _is_held(self, name: str) -> bool:
        task = self.naive.find(name)
        return task is not None and task.state == "RUNNING"

    def _submit(self, nodes: range) -> None:
        for node in nodes:
            edges = [
                NaiveEdge(parent, condition, otherwise)
                for on, (condition, otherwise) in self.graph[node].on
                if (parent := self.naive.find(f"n{on}")) is not None
            ]
            need = min(self.graph[node].need, len(edges)) or len(edges)
            task = NaiveTask(
                id=f"n{node}",
                priority=0,
                due_ms=0,
                max_attempts=1,
                expire_ms=None,
                retention_ms=KEPT_MS,
                edges=edges,
                need=need,
            )
            assert self.naive.submit(task)
            self.queue.submitted(
                spec(
                    task_id=task.id,
                    max_attempts=1,
                    need=need,
                    depends_on=[
                        Dependency(
                            task_id=edge.parent.id,
                            condition=Dependency.Condition.Value(f"CONDITION_{edge.condition}"),
                            otherwise=Dependency.Otherwise.Value(f"OTHERWISE_{edge.otherwise}"),
                        )
                        for edge in edges
                    ],
                )
            )
        self.compare()


def all_graphs(nodes: int) -> Iterator[Graph]:
    """Yield every graph of so many nodes: each edge there or not, in each way, each need."""
    choices = []
    for node in range(nodes):
        of_node = []
        for ways in itertools.product((None, *WAYS), repeat=node):
            on = tuple((parent, way) for parent, way in enumerate(ways) if way is not None)
            of_node += [Node(on, need) for need in range(1, len(on) + 1)] or [Node()]
        choices.append(of_node)
    yield from itertools.product(*choices)


def random_graph(draw: random.Random, nodes: int) -> Graph:
    graph = []
    for node in range(nodes):
        parents = draw.sample(range(node), draw.randint(0, min(node, 3)))
        on = tuple((parent, draw.choice(WAYS)) for parent in sorted(parents))
        graph.append(Node(on, draw.choice((0, draw.randint(0, max(1, len(on)))))))
    return graph


def random_run(seed: int, moves: int = 25) -> Run:
    """Make random moves on a random graph."""
    draw = random.Random(seed)
    nodes = draw.randint(2, 7)
    late = draw.randint(0, nodes // 2)
    run = Run(random_graph(draw, nodes), submitted_late=late)
    submit_at = draw.randint(0, moves)
    for move in range(moves):
        if move == submit_at:
            run.submit_late()
        run.queue.now_ms += draw.choice((0, 0, 1))
        run.naive.now_ms = run.queue.now_ms
        node = draw.randrange(nodes)
        kind = draw.choice(("end", "end", "end", "start", "redrive", "redrive", "force", "delete"))
        if kind == "end":
            run.end(node, draw.choice(ENDS))
        elif kind == "start":
            run.start(node)
        elif kind == "delete":
            run.delete(node)
        else:
            run.redrive(node, force=kind == "force")
    return run
