"""Random histories with graphs of tasks that wait for each other, and a leader killed anywhere."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.play.graphs import drawn_graph, graph_history, submit_graph
from tests.simulation.play.stack import Stack, whole_stack_history
from tests.simulation.play.story import Story
from tests.simulation.test_killed_at_each_entry import led, watch

SEEDS = 40
SEEDS_A_TEST = 5
NODES = 12
DONE_S = 5.0
"""Longer than a graph takes, also with a kill."""
ENTRIES = 12
"""As many as the graph takes without a kill."""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_no_history_with_graphs_breaks_a_promise(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        history = graph_history(seed)
        assert history.failure == "", f"seed {seed}"
        assert history.counts["reports"] > 10, f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, ENTRIES + 1))
def test_a_leader_killed_at_an_entry_of_a_graph_changes_no_end(at: int) -> None:
    async def drive(stack: Stack) -> None:
        await led(stack)
        watch(stack, at)
        story = Story(7, whole_stack=True)
        await submit_graph(stack, *drawn_graph(story.draw("graph"), "g", NODES))
        await asyncio.sleep(DONE_S)

    history = whole_stack_history(Story(at, whole_stack=True), drive=drive)

    assert history.failure == ""
    assert any(" is killed at entry " in line for line in history.trace)
