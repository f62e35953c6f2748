"""Many seeds: run on every core, reported as they end, with the failing ones shortened."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.simulation.play import stack
from tests.simulation.play.minimise import minimise
from tests.simulation.play.runs import SCRIPT, protocol_history
from tests.simulation.play.stack import whole_stack_history
from tests.simulation.play.story import History, Script, Story

MINIMISE_S = 60.0
TOLD_LINES = 60
SEEDS_A_JOB = 5


def history(story: Story) -> History:
    """Run a story."""
    return whole_stack_history(story) if story.whole_stack else protocol_history(story)


def script_of(story: Story) -> Script:
    """The script of a story."""
    return stack.SCRIPT if story.whole_stack else SCRIPT


def drawn_seed() -> int:
    """A random first seed, which most likely was never run."""
    return int.from_bytes(os.urandom(4), "big")


@dataclass
class Campaign:
    """The results of many seeds."""

    seeds: int = 0
    spent_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[Story, str]] = field(default_factory=list)

    def describe(self) -> str:
        """A line for a log."""
        counted = ", ".join(f"{value} {name}" for name, value in sorted(self.counts.items()))
        failing = ", ".join(str(story.seed) for story, _ in self.failures) or "none"
        return (
            f"{self.seeds} seeds in {self.spent_s:.0f} s"
            f" ({60 * self.seeds / max(self.spent_s, 0.001):.0f} a minute): {counted};"
            f" failing: {failing}"
        )


def run(
    first: int,
    seeds: int,
    *,
    whole_stack: bool = False,
    jobs: int | None = None,
    progress: Callable[[Campaign], None] = lambda _: None,
    failures_max: int = 5,
) -> Campaign:
    """Run the seeds from ``first`` on; stop early once so many have failed."""
    campaign = Campaign()
    began_s = time.monotonic()
    stories = [Story(seed, whole_stack) for seed in range(first, first + seeds)]
    jobs = jobs or os.cpu_count() or 1
    # Forked from a process of many threads, a child may hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context, initializer=_begin_worker) as pool:
        pending = {
            pool.submit(_outcomes, stories[start : start + SEEDS_A_JOB])
            for start in range(0, seeds, SEEDS_A_JOB)
        }
        for done in concurrent.futures.as_completed(pending):
            for story, counts, failure in done.result():
                campaign.seeds += 1
                campaign.counts.update(counts)
                if failure:
                    campaign.failures.append((story, failure))
            campaign.spent_s = time.monotonic() - began_s
            progress(campaign)
            if len(campaign.failures) >= failures_max:
                pool.shutdown(cancel_futures=True)
                break
    campaign.failures.sort(key=lambda failed: failed[0].seed)
    return campaign


def _begin_worker() -> None:
    logging.disable(logging.CRITICAL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process with its parent: a killed campaign must leave no waiting processes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _outcomes(stories: Sequence[Story]) -> list[tuple[Story, dict[str, int], str]]:
    return [
        (story, dict(happened.counts), happened.failure)
        for story, happened in ((story, history(story)) for story in stories)
    ]


def shortest(story: Story, *, within_s: float = MINIMISE_S) -> Story:
    """The story with the fewest steps found that lead to the same kind of failure."""
    error = history(story).error
    if error is None:
        return story

    def fails(kept: frozenset[int]) -> bool:
        return isinstance(history(story.only(kept)).error, type(error))

    steps = [step.number for step in story.steps(script_of(story))]
    return story.only(minimise(steps, fails, within_s=within_s))


def tell(story: Story, *, within_s: float = MINIMISE_S) -> str:
    """Describe a failing seed: its steps, its failure, and the command that repeats it."""
    short = shortest(story, within_s=within_s)
    happened = history(short)
    steps = [
        f"  {step.at_s:7.3f} {step.kind} (step {step.number})"
        for step in short.steps(script_of(short))
    ]
    lines = list(happened.trace)
    if len(lines) > TOLD_LINES:
        lines = [f"... {len(lines) - TOLD_LINES} lines before ...", *lines[-TOLD_LINES:]]
    return "\n".join(
        [
            f"seed {story.seed}: {happened.failure}",
            f"again, all of it:    {story.command}",
            f"again, the shortest: {short.command}",
            f"the {len(steps)} steps it takes:",
            *steps,
            "what happens then:",
            *(f"  {line}" for line in lines),
        ]
    )
