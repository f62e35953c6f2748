"""Histograms that count a batch of measurements at a time, at low cost."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

from prometheus_client.metrics_core import HistogramMetricFamily


class Buckets:
    """One histogram's counts, in whole units such as milliseconds.

    ``prometheus_client`` takes some microseconds and a lock to observe one value. A leader moves
    thousands of tasks a second on one thread, and this class counts them in C, a batch at a time.
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[int]) -> None:
        """``bounds`` rise; a value counts in the first bucket whose bound it does not exceed."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0

    def add(self, values: Sequence[int]) -> None:
        """Add these measurements."""
        for place, count in Counter(map(partial(bisect_left, self._bounds), values)).items():
            self._counts[place] += count
        self._total += sum(values)

    def collect_into(
        self, family: HistogramMetricFamily, labels: Sequence[str], units: float
    ) -> None:
        """Add the counts to a family; ``units`` of ours make one of the family's.

        Any thread may call it: measurements added meanwhile may be in the sum and not yet in the
        counts.
        """
        counts = self._counts.copy()
        cumulative: list[tuple[str, float]] = []
        so_far = 0
        bounds: Iterable[str] = (*(_bound(bound / units) for bound in self._bounds), "+Inf")
        for bound, count in zip(bounds, counts, strict=True):
            so_far += count
            cumulative.append((bound, so_far))
        family.add_metric(labels, cumulative, self._total / units)


def _bound(value: float) -> str:
    """Write a bound as Prometheus's own clients do."""
    return repr(float(value))
