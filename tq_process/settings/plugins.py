"""Keeps plugins of pydantic out of a program whose models do not need them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

VARIABLE: Final = "PYDANTIC_DISABLE_PLUGINS"


@contextmanager
def without_plugins() -> Iterator[None]:
    """Import modules with models inside: pydantic looks for no plugins while it builds them.

    It would search every installed package, which takes time, and import what it finds. The
    environment is then as it was: processes that this one starts may use plugins.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "__all__"
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
