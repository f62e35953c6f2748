"""Graphs of tasks that wait for each other, on the whole stack."""

from __future__ import annotations

import random

from chaos.workloads.chains import CONDITIONS, OTHERWISES, Node
from tests.simulation.play.play import play
from tests.simulation.play.stack import SCRIPT, Stack, whole_stack_history
from tests.simulation.play.story import History, Script, Story
from tests.simulation.world.workers import QUEUES, Plan
from tq.v1 import task_pb2

GRAPH_SCRIPT = Script(
    for_s=10.0,
    weights={**SCRIPT.weights, "submit_graph": 8},
    pause_s=SCRIPT.pause_s,
    steady=(("submit", 0.5), ("read", 0.15), ("submit_graph", 1.0)),
)
NODES = 8
PARENTS_MAX = 3
DYING = 0.25
"""The share of tasks that fail in every attempt."""

Shape = list[tuple[tuple[task_pb2.Dependency, ...], int]]


def drawn_graph(
    draw: random.Random, salt: str, nodes: int = NODES
) -> tuple[list[task_pb2.TaskSpec], Shape]:
    """Draw tasks that wait for each other, and what each of them waits for."""
    specs: list[task_pb2.TaskSpec] = []
    shape: Shape = []
    for number in range(nodes):
        parents = draw.sample(range(number), draw.randint(0, min(number, PARENTS_MAX)))
        depends_on = tuple(
            task_pb2.Dependency(
                item=parent, condition=draw.choice(CONDITIONS), otherwise=draw.choice(OTHERWISES)
            )
            for parent in parents
        )
        need = draw.choice((0, 0, draw.randint(0, len(parents))))
        dies = draw.random() < DYING
        plan = Plan(work_s=draw.choice((0.0, 0.05)), ends="fail" if dies else "complete")
        spec = task_pb2.TaskSpec(
            queue=draw.choice(QUEUES),
            type="t",
            payload=plan.payload(f"{salt}.{number}"),
            max_attempts=2 if dies else 50,
            depends_on=depends_on,
            need=need,
        )
        spec.retry_policy.initial_backoff.FromMilliseconds(20)
        specs.append(spec)
        shape.append((depends_on, need or len(depends_on)))
    return specs, shape


async def submit_graph(stack: Stack, specs: list[task_pb2.TaskSpec], shape: Shape) -> None:
    """Submit a graph, and note it for the end."""
    ids = await stack.clients[0].submit_together(specs)
    stack.graphs.append([Node(task_id, *node) for task_id, node in zip(ids, shape, strict=True)])


def graph_history(seed: int) -> History:
    """Run random faults and calls, with graphs among them; then check the history."""
    story = Story(seed, whole_stack=True)

    async def drive(stack: Stack) -> None:
        def submit(draw: random.Random) -> None:
            drawn = drawn_graph(draw, f"{stack.loop.time():.3f}")
            stack.clients[0].spawn(submit_graph(stack, *drawn))

        kinds = {**stack.kinds(), "submit_graph": submit}
        await play(stack, story.steps(GRAPH_SCRIPT), story, kinds)

    return whole_stack_history(story, drive=drive)
