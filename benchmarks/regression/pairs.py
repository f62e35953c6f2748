"""Pairs of measurements: what is measured, in which order, and how many."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import Bystanders
from benchmarks.regression.judge import Judgement, Verdict, judge, overall
from benchmarks.regression.sides import Side
from benchmarks.regression.software import Software

BASE, HEAD = "base", "head"
TURNS = 4
"""How often a pair measures each workload on each side: AB BA AB BA, or BA AB BA AB.

Many short turns: the noise of other programs comes and goes within seconds.
"""


SHOWN_SHARE = 0.03
"""Of the whole time: a worker that waits for tasks uses less, and its ratio says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A piece of work of `driver.py`."""

    name: str
    tasks: int
    says: str


WORKLOADS = (
    Workload(name="lone", tasks=75, says="a lone task, from submit to result"),
    Workload(name="calls", tasks=2_000, says="a task submitted in a call of 100"),
    Workload(name="drain", tasks=2_000, says="a stored task, run by tq-worker"),
)
"""`drain` runs the tasks that `calls` submitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What both sides used, in seconds, by workload, side and group of processes."""

    first: str
    """The side that was measured first."""
    used_s: Mapping[str, Mapping[str, Mapping[str, float]]]
    others: float
    """The share of the cores that other programs used meanwhile."""

    def ratio(self, workload: str, group: str | None = None) -> float:
        """The head's time over the base's, of one group of processes or of all."""
        return self.spent_s(workload, HEAD, group) / self.spent_s(workload, BASE, group)

    def spent_s(self, workload: str, side: str, group: str | None = None) -> float:
        """The time of one group of processes, or of all."""
        used = self.used_s[workload][side]
        return used[group] if group is not None else sum(used.values())


@dataclass(slots=True)
class Run:
    """The pairs so far."""

    limit: float
    pairs: list[Pair] = field(default_factory=list)
    ended: str = ""
    """Why no more pairs were measured."""

    @property
    def judgements(self) -> dict[str, Judgement]:
        """The verdict for each workload."""
        if not self.pairs:
            return {}
        return {
            each.name: judge([pair.ratio(each.name) for pair in self.pairs], self.limit)
            for each in WORKLOADS
        }

    @property
    def verdict(self) -> Verdict:
        """The verdict for all workloads."""
        return overall(self.judgements)

    def each_ms(self, workload: Workload, side: str) -> float:
        """The median of what a task took, in milliseconds."""
        tasks = workload.tasks * TURNS
        return statistics.median(
            pair.spent_s(workload.name, side) / tasks * 1e3 for pair in self.pairs
        )

    def by_group(self, workload: Workload) -> dict[str, float]:
        """The median ratio of each group of processes that has a share worth a ratio."""
        groups = self.pairs[0].used_s[workload.name][BASE]
        return {
            group: statistics.median(pair.ratio(workload.name, group) for pair in self.pairs)
            for group in groups
            if self._share(workload.name, group) >= SHOWN_SHARE
        }

    def _share(self, workload: str, group: str) -> float:
        whole_s = sum(pair.spent_s(workload, BASE) for pair in self.pairs)
        return sum(pair.spent_s(workload, BASE, group) for pair in self.pairs) / whole_s


def order(number: int) -> tuple[str, str]:
    """Return which side is first, in a pair or in a turn of it, counted from 0: AB BA AB BA."""
    return (BASE, HEAD) if number % 2 == 0 else (HEAD, BASE)


def measure_until_sure(
    run: Run,
    measure: Callable[[int], Pair],
    *,
    pairs: int,
    pairs_max: int,
    within_s: float,
    clock: Callable[[], float],
    to_the_end: bool = False,
) -> Iterator[Pair]:
    """Add pairs to ``run`` until the verdict is certain; yield each.

    It is looked for after ``pairs`` pairs and after each further one, up to ``pairs_max``, unless
    ``to_the_end``. A pair that would probably end after ``within_s`` is not begun, but for the
    first one.
    """
    begun_s = clock()
    longest_s = 0.0
    while len(run.pairs) < pairs_max:
        from_s = clock()
        if run.pairs and from_s - begun_s + longest_s > within_s:
            run.ended = f"{within_s / 60:g} minutes are over"
            return
        run.pairs.append(measure(len(run.pairs)))
        longest_s = max(longest_s, clock() - from_s)
        yield run.pairs[-1]
        if to_the_end or len(run.pairs) < pairs:
            continue
        if run.verdict is not Verdict.UNSURE:
            run.ended = "the verdict is certain"
            return
    run.ended = f"{pairs_max} pairs were measured"


def measure_pair(number: int, software: Mapping[str, Software], data_dir: Path | None) -> Pair:
    """Measure every workload on both sides.

    Both sides have new clusters, as one differs from the next of the same software. They run beside
    each other, and each workload is measured on one directly after the other, in turns, so that a
    machine that gets slower meanwhile is no advantage to either.
    """
    bystanders = Bystanders()
    used_s = asyncio.run(_measure(number, software, data_dir))
    return Pair(first=order(number)[0], used_s=used_s, others=bystanders.share())


async def _measure(
    number: int, software: Mapping[str, Software], data_dir: Path | None
) -> dict[str, dict[str, dict[str, float]]]:
    with tempfile.TemporaryDirectory(prefix="tq-regression-", dir=data_dir) as folder:
        async with AsyncExitStack() as stack:
            sides = {
                name: await stack.enter_async_context(
                    Side(name, software[name], Path(folder) / name)
                )
                for name in order(number)
            }
            await asyncio.gather(*(side.ready() for side in sides.values()))
            return await measure_sides(number, sides)


async def measure_sides(
    number: int, sides: Mapping[str, Side]
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure each workload in each turn of a pair; return the sums."""
    used_s: dict[str, dict[str, dict[str, float]]] = {
        each.name: {BASE: {}, HEAD: {}} for each in WORKLOADS
    }
    for turn in range(TURNS):
        for workload in WORKLOADS:
            for name in order(number + turn):
                total = used_s[workload.name][name]
                used = await sides[name].measure(workload.name, workload.tasks)
                for group, spent_s in used.items():
                    total[group] = total.get(group, 0.0) + spent_s
    return used_s
