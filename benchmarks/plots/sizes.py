"""How much is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.plots.load import Limits

RATES: Final = (
    50.0,
    100.0,
    200.0,
    500.0,
    1_000.0,
    2_000.0,
    4_000.0,
    6_000.0,
    8_000.0,
    10_000.0,
    12_000.0,
    14_000.0,
    16_000.0,
    20_000.0,
    25_000.0,
    30_000.0,
)
DEPTHS: Final = (1_000, 10_000, 100_000, 1_000_000)
DEEP: Final = 10_000_000
MINUTES: Final = 30.0
DEEP_MINUTES: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The bounds of each plot, in counts and in time."""

    minutes: float = MINUTES
    """How long each plot may take: then nothing further begins, and what there is gets drawn."""
    rates: Sequence[float] = RATES
    step: Limits = field(default_factory=Limits)
    depths: Sequence[int] = DEPTHS
    calls: int = 500
    """The submits, and the claims, at each depth."""
    calls_s: float = 60.0
    """How long all of them may take."""
    kills: int = 20
