"""Makes users' text safe to show: it cannot move the cursor or break a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

# Controls, invisible formatting (which also turns the direction of writing), line and paragraph
# separators.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str, *, lines: bool = False) -> str:
    """Escape invisible characters as Python does; ``lines`` keeps line ends and tabs.

    So an id, a type or an error cannot control the terminal, and a row of a table stays one row.
    """
    return rewritten(text, _as_python, kept="\n\t" if lines else "")


def rewritten(text: str, write: Callable[[str], str], *, kept: str = "") -> str:
    """Replace each invisible character, except those in ``kept``, by what ``write`` returns."""
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
