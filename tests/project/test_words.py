"""The check of words finds them where people read, and leaves what programs say alone."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "check_words.py"))


@pytest.mark.parametrize(
    ("suffix", "text", "lines"),
    [
        (".py", '"""First.\n\nIt is told so."""\n', [3]),
        (".py", 'LIMIT = 3\n"""Nobody exceeds it."""\n', [2]),
        (".py", "x = 1  # whatever that is\n", [1]),
        (".py", 'say("nobody came")\nnobody = "anew"\n', []),
        (".proto", "// Begins anew.\nmessage A {  // told to\n  string nobody = 1;\n}\n", [1, 2]),
        (".md", "Fine.\nWhoever reads this.\nAvoid: whoever, anew.\n", [2]),
    ],
)
def test_words_to_avoid_are_found_in_prose_alone(suffix: str, text: str, lines: list[int]) -> None:
    found = [
        number for number, line in SCRIPT["READERS"][suffix](text) if SCRIPT["WORDS"].search(line)
    ]

    assert sorted(set(found)) == lines
