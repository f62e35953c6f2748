"""The software of each side: this checkout, and an earlier commit in a temporary worktree."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from chaos.cluster.commands import clean_environment

HEAD_ROOT = Path(__file__).resolve().parents[2]
MAIN = ("origin/main", "main")
"""Branches that a change goes to; the first that is known here counts."""
LOCK = "requirements-dev.lock"
GENERATOR = Path("scripts/generate_protos.py")
LOG_TAIL_CHARS = 4_000


class SoftwareError(Exception):
    """A commit was not found, or its software cannot be built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """A checkout that can run."""

    root: Path
    python: Path
    """An interpreter with what the checkout's lock file names."""
    commit: str
    subject: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which ``python`` imports the packages of ``root``."""
        return {
            **clean_environment(),
            # Before the editable installation, if the interpreter is another checkout's.
            "PYTHONPATH": str(self.root),
            "PYTHONSAFEPATH": "1",
        }

    @property
    def title(self) -> str:
        """The commit as the output names it."""
        return f"{self.commit[:10]} {self.subject}"


def base_commit(ref: str | None, root: Path = HEAD_ROOT) -> str:
    """Find the commit to compare with: ``ref``, else where this branch left the main branch.

    On the main branch itself that is the commit before.
    """
    head = _commit(root, "HEAD")
    if ref is not None:
        return _commit(root, ref)
    for main in MAIN:
        with suppress(SoftwareError):
            found = _git(root, "merge-base", head, _commit(root, main)).strip()
            return found if found != head else _commit(root, "HEAD~1")
    raise SoftwareError(f"there is no branch {' or '.join(MAIN)}: name a commit with --base")


def head_software(root: Path = HEAD_ROOT) -> Software:
    """Return this checkout as it is now, with changes that are not committed."""
    subject = _git(root, "log", "-1", "--format=%s").strip()
    if _git(root, "status", "--porcelain", "--untracked-files=no").strip():
        subject += " (and changes that are not committed)"
    head = Software(
        root=root, python=Path(sys.executable), commit=_commit(root, "HEAD"), subject=subject
    )
    _generate(head)
    return head


@contextmanager
def base_software(commit: str, head: Software) -> Iterator[Software]:
    """Check out a commit into a temporary worktree and build it; remove all of it in the end.

    Its environment is the head's if both lock files are equal, else one of its own.
    """
    with tempfile.TemporaryDirectory(prefix="tq-regression-") as folder:
        root = Path(folder) / "base"
        try:
            _git(head.root, "worktree", "add", "--detach", str(root), commit)
            yield _built(root, commit, head)
        finally:
            # The folder first: git refuses to remove a worktree that it has only half made, but
            # not one whose folder is gone. Twice forced: it locks a worktree while it makes it.
            shutil.rmtree(root, ignore_errors=True)
            with suppress(SoftwareError):
                _git(head.root, "worktree", "remove", "--force", "--force", str(root))


def _built(root: Path, commit: str, head: Software) -> Software:
    subject = _git(root, "log", "-1", "--format=%s").strip()
    own = not _equal(root / LOCK, head.root / LOCK)
    python = root / ".venv/bin/python" if own else head.python
    base = Software(root=root, python=python, commit=commit, subject=subject)
    if own:
        command = ["make", "--no-print-directory", "setup", f"PYTHON={head.python}"]
        _run(command, root, clean_environment(), f"the base {base.title} cannot be set up")
    else:
        _generate(base)
    return base


def _equal(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()


def _generate(software: Software) -> None:
    """Generate the package `tq`, as `make setup` does."""
    _run(
        [str(software.python), str(software.root / GENERATOR)],
        software.root,
        software.environment,
        f"the protos of {software.title} cannot be generated",
    )


def _commit(root: Path, ref: str) -> str:
    named = f"{ref}^{{commit}}"
    arguments = ("rev-parse", "--verify", "--quiet", "--end-of-options", named)
    return _git(root, *arguments, what=f"there is no commit {ref}").strip()


def _git(root: Path, *arguments: str, what: str = "") -> str:
    command = ["git", "-C", str(root), *arguments]
    return _run(command, root, os.environ, what or f"git {arguments[0]} failed")


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str], what: str) -> str:
    """Run a program to its end; an error begins with ``what`` and ends with the program's output.

    An interrupt ends the program with all that it started: what it writes is about to be removed.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
        try:
            code = process.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        output.seek(0)
        text = output.read()
    if code:
        raise SoftwareError(f"{what} (exit code {code})\n{text[-LOG_TAIL_CHARS:]}".rstrip())
    return text
