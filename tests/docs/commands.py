"""The commands that the documents tell a reader to type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "text", "python", "yaml", "dockerfile"}
"""The languages of fenced blocks; `sh` is for commands."""
PROGRAMS = {
    *("tq-admin", "tq-cluster", "tq-worker"),
    *("make", "python", "python3", "pip", "lint-imports"),
    *("docker", "docker-compose", "systemctl", "journalctl", "useradd"),
    *("buf", "protoc", "grpcurl", "git", "npm"),
}
PATHS = re.compile(r"\.? ?(?:\.venv|\.ci|deploy|scripts|/opt/tq/bin)/\S+")
ALONE = {"make", "lint-imports"}
"""Programs that count as commands without arguments; other bare names are only mentions."""
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.]+)\n")
COMMENT = re.compile(r"\s{2,}#.*$")


@dataclass(frozen=True, slots=True)
class Command:
    """One command, and the document that has it."""

    text: str
    document: str


def blocks(path: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a document: language and text."""
    return FENCE.findall(path.read_text())


def commands() -> Iterator[Command]:
    """Every command in every document, including those inside a sentence."""
    for path in DOCUMENTS:
        for language, text in blocks(path):
            for line in text.splitlines() if language == "sh" else ():
                yield Command(COMMENT.sub("", line).strip(), path.name)
        prose = FENCE.sub("", path.read_text())
        for span in re.findall(r"`([^`]+)`", prose):
            if _is_command(text := " ".join(span.split())):
                yield Command(text, path.name)


def _is_command(text: str) -> bool:
    program, _, rest = text.partition(" ")
    if text in ALONE or PATHS.fullmatch(text):
        return not (ROOT / text).is_dir()
    return bool(rest) and (program in PROGRAMS or PATHS.match(text) is not None)


def python_blocks(name: str) -> list[str]:
    """The pieces of Python in a document."""
    return [text for language, text in blocks(ROOT / name) if language == "python"]


def files(name: str) -> dict[str, str]:
    """The blocks of a document that begin with a comment of their file's name, by that name."""
    texts = [text for _, text in blocks(ROOT / name)]
    return {found[1]: text for text in texts if (found := FILE.match(text))}
