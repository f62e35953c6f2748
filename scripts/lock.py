"""Resolve the dependencies of pyproject.toml into requirements-dev.lock, or check the file.

The lock's first lines carry a digest of what was resolved, so the check needs no network.

Usage: python scripts/lock.py [--check] [--upgrade]
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.lock"
DIGEST_PREFIX = "# resolved from: sha256:"


def inputs_digest() -> str:
    """Digest of everything in pyproject.toml that decides which packages are installed."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = pyproject["project"]
    inputs = {
        "python": project["requires-python"],
        "build": sorted(pyproject["build-system"]["requires"]),
        "runtime": sorted(project["dependencies"]),
        "extras": {name: sorted(of) for name, of in project["optional-dependencies"].items()},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def check() -> None:
    """End with an error if the lock was made for other dependencies than pyproject.toml lists."""
    if f"{DIGEST_PREFIX}{inputs_digest()}" not in LOCK.read_text().splitlines():
        sys.exit("requirements-dev.lock was made for other dependencies: run make lock")
    print("requirements-dev.lock belongs to pyproject.toml")


def write(*, upgrade: bool) -> None:
    """Resolve for all pythons and platforms; keep the present versions unless upgrading."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
    command += ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--system-certs", "--extra=dev", "pyproject.toml", f"--output-file={LOCK}"]
    command += ["--upgrade"] if upgrade else []
    subprocess.run(command, cwd=ROOT, check=True)
    header = f"# Made by `make lock`; do not edit.\n{DIGEST_PREFIX}{inputs_digest()}\n"
    LOCK.write_text(header + LOCK.read_text())


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        check()
    else:
        write(upgrade="--upgrade" in sys.argv[1:])
