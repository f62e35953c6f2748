"""Resolve the dependencies of pyproject.toml into the two lock files, or check them.

requirements-dev.lock has everything a checkout needs, requirements.lock what runs in a container
(with the extra otel, so that a container can export traces), in the same versions. Their first
lines carry a digest of what was resolved, so the check needs no
network.

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
RUNTIME_LOCK = ROOT / "requirements.lock"
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
    """End with an error if a lock was made for other dependencies than pyproject.toml lists."""
    for lock in (LOCK, RUNTIME_LOCK):
        if f"{DIGEST_PREFIX}{inputs_digest()}" not in lock.read_text().splitlines():
            sys.exit(f"{lock.name} was made for other dependencies: run make lock")
        print(f"{lock.name} belongs to pyproject.toml")


def write(*, upgrade: bool) -> None:
    """Resolve for all pythons and platforms; keep the present versions unless upgrading."""
    _compile(LOCK, "--extra=dev", *(["--upgrade"] if upgrade else []))
    _compile(RUNTIME_LOCK, "--extra=otel", f"--constraint={LOCK.name}", "--upgrade")


def _compile(lock: Path, *options: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
    command += ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--system-certs", *options, "pyproject.toml", f"--output-file={lock}"]
    subprocess.run(command, cwd=ROOT, check=True)
    header = f"# Made by `make lock`; do not edit.\n{DIGEST_PREFIX}{inputs_digest()}\n"
    lock.write_text(header + lock.read_text())


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        check()
    else:
        write(upgrade="--upgrade" in sys.argv[1:])
