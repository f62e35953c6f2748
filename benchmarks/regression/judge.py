"""Decide from pairs of measurements whether a change costs processor time.

The rule. Each pair gives one ratio a workload: the head's time a task over the base's. The
estimate is the median of the geometric means of every two ratios (Hodges and Lehmann), and its
95 % interval is that of Wilcoxon's signed ranks:

- slower, if the whole interval is above the limit;
- passed, if the whole interval is below it;
- unsure, if the limit is inside. Then more pairs are measured, up to a number and a time.

Why so. The interval assumes only that the logarithms of the ratios lie symmetrically around their
middle, which the design provides: base and head are measured in turns, and which is first
alternates. It is exact for few pairs, where a bootstrap is too narrow, and one wild pair among a
dozen does not change the verdict. A noisy machine makes it wider: then the check is unsure, and
does not fail.

Pairs are judged again after each further one, and each time is another chance to be wrong. That
matters only for a change close to the limit, which may be called either way: a change of exactly
the limit fails in about 6 % of the runs for each workload that it slows down. Without a change, the
whole interval would have to be off by 10 %: none of 200 runs fails if the ratios of pairs scatter
by 15 %, and 2 % of them by 30 %. tests/benchmarks/test_regression.py counts all of these.
"""

from __future__ import annotations

import enum
import functools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95


class Verdict(enum.Enum):
    """What the pairs say of one workload, or of all."""

    PASSED = "passed"
    UNSURE = "unsure"
    SLOWER = "slower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The verdict for one workload, and why. Ratios are of the head's time over the base's."""

    verdict: Verdict
    pairs: int
    ratio: float
    low: float
    high: float
    """Ends of the interval; 0 and infinity if the pairs are too few for one."""


def fewest(level: float = LEVEL) -> int:
    """Return how many pairs an interval of this level takes at least: 6 for 95 %."""
    return math.ceil(1 - math.log2(1 - level))


def judge(ratios: Sequence[float], limit: float, level: float = LEVEL) -> Judgement:
    """Apply the rule to the ratios of one workload; ``limit`` is a ratio, such as 1.1."""
    logs = [math.log(ratio) for ratio in ratios]
    means = sorted(
        (one + other) / 2 for place, one in enumerate(logs) for other in logs[: place + 1]
    )
    ratio = math.exp(_median(means))
    outside = _left_out(len(logs), level)
    low, high = 0.0, math.inf
    if outside is not None:
        low, high = math.exp(means[outside]), math.exp(means[-1 - outside])
    if low > limit:
        verdict = Verdict.SLOWER
    elif high < limit:
        verdict = Verdict.PASSED
    else:
        verdict = Verdict.UNSURE
    return Judgement(verdict=verdict, pairs=len(logs), ratio=ratio, low=low, high=high)


def overall(judgements: Mapping[str, Judgement]) -> Verdict:
    """Return the worst verdict: one slower workload decides, and an unsure one is not passed."""
    verdicts = {each.verdict for each in judgements.values()}
    for verdict in (Verdict.SLOWER, Verdict.UNSURE):
        if verdict in verdicts:
            return verdict
    return Verdict.PASSED if verdicts else Verdict.UNSURE


def rates(
    ratios: Mapping[str, Sequence[float]],
    *,
    times: float,
    limit: float,
    pairs: int,
    pairs_max: int,
    runs: int = 400,
    seed: int = 1,
) -> dict[Verdict, float]:
    """Replay the whole check on pairs of equal software that were measured here.

    Each replayed run draws pairs with replacement, swaps the sides of half of them (they are equal,
    so a ratio is as likely as its inverse), and takes the head to be ``times`` as slow. The result
    is the share of runs that end with each verdict.
    """
    draw = random.Random(seed)
    measured = list(zip(*ratios.values(), strict=True))
    ends = dict.fromkeys(Verdict, 0)
    for _ in range(runs):
        drawn: dict[str, list[float]] = {name: [] for name in ratios}
        verdict = Verdict.UNSURE
        for number in range(1, pairs_max + 1):
            sign = draw.choice((1, -1))
            for name, ratio in zip(ratios, draw.choice(measured), strict=True):
                drawn[name].append(ratio**sign * times)
            if number >= pairs:
                verdict = overall({name: judge(each, limit) for name, each in drawn.items()})
                if verdict is not Verdict.UNSURE:
                    break
        ends[verdict] += 1
    return {verdict: count / runs for verdict, count in ends.items()}


def _median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


@functools.cache
def _left_out(pairs: int, level: float) -> int | None:
    """Return how many of the means lie outside the interval at each end; None: too few pairs.

    The sum of the signed ranks of n pairs is distributed as that of a subset of 1..n, each number
    in it or not with equal chance.
    """
    ways = [1]
    for rank in range(1, pairs + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    most = (1 - level) / 2 * 2**pairs
    below, outside = 0, None
    for total, count in enumerate(ways):
        below += count
        if below > most:
            break
        outside = total
    return outside
