"""The steps that a seed takes on a cluster, drawn before the run.

Each step draws from its own randomness, so that a story keeps its meaning if some steps are left
out. A failing story is shortened that way.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """A fault that is injected into the cluster, or a request to it."""

    number: int
    at_s: float
    kind: str


@dataclass(frozen=True, slots=True)
class Story:
    """The steps of a seed; ``kept`` names those that are taken, None: all."""

    seed: int
    whole_stack: bool = False
    kept: frozenset[int] | None = None

    def draw(self, what: object) -> random.Random:
        """The randomness of one part of the story."""
        return random.Random(f"{self.seed}/{what}")

    def only(self, kept: AbstractSet[int]) -> Story:
        """The same story with only these steps."""
        return Story(self.seed, self.whole_stack, frozenset(kept))

    @property
    def command(self) -> str:
        """The command that repeats the story."""
        options = " --whole-stack" if self.whole_stack else ""
        if self.kept is not None:
            options += f" --only {','.join(map(str, sorted(self.kept))) or 'none'}"
        return f"python -m tests.simulation show {self.seed}{options}"

    def steps(self, script: Script) -> list[Step]:
        """The steps that are taken, in order."""
        steps = script.steps(self.draw("steps"))
        return [step for step in steps if self.kept is None or step.number in self.kept]


@dataclass(frozen=True, slots=True)
class Script:
    """The rules from which stories are drawn."""

    for_s: float
    weights: Mapping[str, int]
    """How likely each kind of fault is."""
    pause_s: tuple[float, float] = (0.05, 1.2)
    """The pause between one fault and the next."""
    steady: tuple[tuple[str, float], ...] = ()
    """(kind, interval in seconds) of the steps that go on all the time."""

    def steps(self, draw: random.Random) -> list[Step]:
        """One story, in the order of time."""
        at: list[tuple[float, str]] = []
        for kind, every_s in self.steady:
            at += [(every_s * turn, kind) for turn in range(int(self.for_s / every_s))]
        now_s = draw.uniform(*self.pause_s)
        kinds, weights = list(self.weights), list(self.weights.values())
        while now_s < self.for_s:
            at.append((now_s, draw.choices(kinds, weights)[0]))
            now_s += draw.uniform(*self.pause_s)
        return [Step(number, *each) for number, each in enumerate(sorted(at))]


@dataclass(frozen=True, slots=True)
class History:
    """The result of a story."""

    trace: Sequence[str]
    """Faults, starts and elections, in order."""
    counts: Mapping[str, int]
    error: Exception | None = None
    calls: Sequence[str] = ()
    """Every call, in the order in which they began."""

    @property
    def digest(self) -> str:
        """Equal for equal histories."""
        return hashlib.sha256("\n".join([*self.trace, *self.calls]).encode()).hexdigest()

    @property
    def failure(self) -> str:
        """What went wrong; empty when nothing did."""
        return "" if self.error is None else f"{type(self.error).__name__}: {self.error}"
