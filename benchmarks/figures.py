"""The figures that a benchmark measured, and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value, its target, and the values from which it was computed."""

    name: str
    value: float
    unit: str
    target: float | None = None
    """None: measured for information."""
    more_is_better: bool = False
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without a target."""
        if self.target is None:
            return None
        if self.more_is_better:
            return self.value >= self.target
        return self.value < self.target


@dataclass(slots=True)
class Samples:
    """Values of one kind, in the order they were measured."""

    values: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        self.values.append(value)

    def percentile(self, percent: float) -> float:
        """The value that ``percent`` of all values do not exceed."""
        return percentile(self.values, percent)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: always a value that was measured."""
    if not values:
        raise ValueError("no values were measured")
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]
