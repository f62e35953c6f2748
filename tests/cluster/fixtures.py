"""Fixtures to import into a conftest.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from chaos.processes import ProcessCluster


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    """Three brokers with a leader; what they logged is printed, which pytest shows on failure.

    A test whose brokers logged an error of their own has failed, whatever its callers saw.
    """
    brokers = ProcessCluster(tmp_path / "cluster")
    try:
        await brokers.start()
        yield brokers
    finally:
        print(await brokers.describe())  # noqa: T201  # shown by pytest when the test failed
        await brokers.close()
    complaints = {name: broker.complaints() for name, broker in brokers.brokers.items()}
    assert not any(complaints.values()), complaints
