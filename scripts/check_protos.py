"""Lint the protos, and refuse changes that break clients or peers built from an earlier version.

Compared with the first of these that exists: --against REF; the newest release tag (v*); the last
version on main that differs from the files here. Before the first release a break may be right:
say why in the commit that makes it, in a line that starts with "Breaks-protocol:".

Usage: python scripts/check_protos.py [--against REF]
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRAILER = "Breaks-protocol:"


def main() -> None:
    """Lint, then compare with the baseline if there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--against", metavar="REF", help="commit to compare with")
    against: str | None = parser.parse_args().against
    if not any((ROOT / "proto").rglob("*.proto")):
        print("proto/ holds no .proto files yet: nothing to check")
        return
    _buf("lint")
    print("protos: lint passed")
    release = _release_tag()
    baseline = against or release or _last_change_on_main()
    if baseline is None:
        print("protos: no earlier version in this clone's history to compare with")
        return
    _compare(baseline, excuse=None if release else _declared_break(baseline))


def _compare(baseline: str, *, excuse: str | None) -> None:
    name = _git("log", "-1", "--format=%h (%s)", baseline)
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", baseline, "proto"], cwd=ROOT, check=True, capture_output=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            # Python before 3.11.4 has no filters.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(folder)  # noqa: S202 - an archive of our own
        shutil.copy(ROOT / "buf.yaml", folder)
        _buf("breaking", "--against", folder, excuse=excuse)
    print(f"protos: compared with {name}: " + (f"{TRAILER} {excuse}" if excuse else "compatible"))


def _buf(*arguments: str, excuse: str | None = None) -> None:
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    if buf is None:
        sys.exit("protos: buf is not installed; it comes with the dev dependencies: make setup")
    if subprocess.run([buf, *arguments], cwd=ROOT, check=False).returncode and excuse is None:
        sys.exit(f"protos: buf {arguments[0]} refused proto/, see above and CONTRIBUTING.md")


def _release_tag() -> str | None:
    return _git("describe", "--tags", "--abbrev=0", "--match", "v*") or None


def _last_change_on_main() -> str | None:
    """Newest commit with protos that differs from the files here."""
    for branch in ("main", "origin/main", "HEAD"):
        if not _git("rev-parse", "--verify", "--quiet", f"{branch}^{{commit}}"):
            continue
        for commit in _git("log", "-5", "--format=%H", branch, "--", "proto").split():
            has_protos = _git("ls-tree", "-r", "--name-only", commit, "proto")
            if has_protos and _git("diff", "--name-only", commit, "--", "proto"):
                return commit
        return None
    return None


def _declared_break(baseline: str) -> str | None:
    for line in _git("log", "--format=%B", f"{baseline}..HEAD", "--", "proto").splitlines():
        if line.startswith(TRAILER):
            return line.removeprefix(TRAILER).strip()
    return None


def _git(*arguments: str) -> str:
    """The command's output; empty when it fails, as in a shallow clone or an unpacked archive."""
    git = subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True)
    return git.stdout.strip() if git.returncode == 0 else ""


if __name__ == "__main__":
    main()
