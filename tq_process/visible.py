"""Text that users chose, made safe to show: nothing in it moves the cursor or breaks a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

# Controls, invisible formatting (which also turns the direction of writing), line and paragraph
# separators.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str, *, lines: bool = False) -> str:
    """Write what cannot be seen as Python would in a string; ``lines`` keeps line ends and tabs.

    Whatever an id, a type or an error holds, a terminal is told nothing by it, and one row of a
    table stays one row.
    """
    return rewritten(text, _as_python, kept="\n\t" if lines else "")


def rewritten(text: str, write: Callable[[str], str], *, kept: str = "") -> str:
    """Have ``write`` say every character that cannot be seen, but for those in ``kept``."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character in kept or unicodedata.category(character) not in HIDDEN
        else write(character)
        for character in text
    )


def _as_python(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
