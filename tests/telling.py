"""Messages that a test run prints at its end, beside the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import pytest

RecordProperty: TypeAlias = Callable[[str, object], None]
"""pytest's fixture ``record_property``."""
FIGURES: Final = "figures"
NOT_RUN: Final = pytest.StashKey[list[str]]()
"""The key in pytest's config for tests that cannot run here, with what they need."""


def tell(record_property: RecordProperty, text: str) -> None:
    """Print a test's measurement at the end of the run, even if the test passes."""
    record_property(FIGURES, text)
