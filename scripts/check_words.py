"""Find words that CONTRIBUTING.md asks to avoid, in what people read.

Looks at docstrings and comments of Python, at comments of the protos, and at Markdown (decision
records are as they were written). Exit code 1 and a line for each if there are any.

Usage: python scripts/check_words.py
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = re.compile(
    r"\b(nobody|is told|whatever|anew|afresh|comes to|told to|said as such|whoever)\b",
    re.IGNORECASE,
)
LISTED = re.compile(r"^Avoid: .*")
"""The line of CONTRIBUTING.md that names them."""


def prose_of_python(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring, string after an assignment, and comment."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            value = node.value.value
            if isinstance(value, str):
                yield from enumerate(value.splitlines(), node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and "noqa" not in token.string:
            yield token.start[0], token.string


def prose_of_proto(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment."""
    for number, line in enumerate(text.splitlines(), 1):
        if "//" in line:
            yield number, line.partition("//")[2]


def prose_of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line but the list of these words."""
    for number, line in enumerate(text.splitlines(), 1):
        if not LISTED.match(line):
            yield number, line


READERS = {".py": prose_of_python, ".proto": prose_of_proto, ".md": prose_of_markdown}


def found() -> Iterator[str]:
    """Yield a line for each such word in the project."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in files.splitlines():
        path = ROOT / name
        reader = READERS.get(path.suffix)
        if reader is None or name.startswith("docs/adr/") or not path.exists():
            continue
        for number, text in reader(path.read_text()):
            for match in WORDS.finditer(text):
                yield f"{name}:{number}: {match[0]!r}: {text.strip()[:100]}"


def main() -> None:
    """Print them."""
    lines = list(found())
    if lines:
        sys.exit("\n".join([*lines, "say it in plain words: CONTRIBUTING.md, Words"]))


if __name__ == "__main__":
    main()
