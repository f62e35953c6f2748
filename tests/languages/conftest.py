"""The Node.js tests need node and npm; without them the run reports that, and no test passes."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.fixtures import cluster
from tests.telling import NOT_RUN

__all__ = ["cluster"]

NODE_FOLDER = Path(__file__).parent / "node"
INSTALL_S = 300


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what cannot run here."""
    if shutil.which("node") and shutil.which("npm"):
        return
    unable = [item for item in items if "node_modules" in getattr(item, "fixturenames", ())]
    if unable:
        config.stash[NOT_RUN].append(f"{len(unable)} tests, which need node and npm")
    config.hook.pytest_deselected(items=unable)
    items[:] = [item for item in items if item not in unable]


@pytest_asyncio.fixture
async def node_modules() -> Path:
    """The folder of the Node.js client's locked packages; installs them if necessary."""
    lock = NODE_FOLDER / "package-lock.json"
    modules = NODE_FOLDER / "node_modules"
    stamp = modules / ".tq-installed-lock.json"
    async with _only_one(NODE_FOLDER / ".installing"):
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            npm = await asyncio.create_subprocess_exec(
                *("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"),
                cwd=NODE_FOLDER,
                stdin=asyncio.subprocess.DEVNULL,
            )
            assert await asyncio.wait_for(npm.wait(), INSTALL_S) == 0, "npm ci failed, see above"
            stamp.write_bytes(lock.read_bytes())
    return modules


@asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[None]:
    """Hold a lock meanwhile: npm empties the folder first, under another process of these tests."""
    with path.open("w") as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield
