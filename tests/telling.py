"""What a run of the tests has to say at its end, beyond which of them passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import pytest

RecordProperty: TypeAlias = Callable[[str, object], None]
"""pytest's fixture ``record_property``."""
FIGURES: Final = "figures"
NOT_RUN: Final = pytest.StashKey[list[str]]()
"""Of pytest's config: which tests cannot run here, and what they need."""


def tell(record_property: RecordProperty, text: str) -> None:
    """Have what a test measured printed at the end, also if it passes."""
    record_property(FIGURES, text)
