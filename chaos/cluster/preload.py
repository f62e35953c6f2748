"""Libraries that a node's process preloads: they change what system calls do."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "native"
COMPILE_S = 60.0


def missing() -> str | None:
    """Say why no library can be built here; None if it can."""
    return None if shutil.which("cc") else "there is no C compiler (cc)"


async def build(name: str, folder: Path) -> Path:
    """Compile ``chaos/native/<name>.c`` into ``folder`` once; return the library to preload."""
    library = folder / f"{name}.so"
    if not library.exists():
        await asyncio.to_thread(_compile, SOURCES / f"{name}.c", library)
    return library


def _compile(source: Path, library: Path) -> None:
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=COMPILE_S)  # noqa: S603  # our own command
