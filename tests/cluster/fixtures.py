"""Fixtures to import into a conftest.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from chaos.cluster.processes import ProcessCluster
from tests.patience import PATIENCE_S


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ProcessCluster]:
    """Three brokers that all answer, with a leader; what they logged is printed on failure.

    A test fails if its brokers logged an error of their own, even if its callers saw none.
    """
    brokers = ProcessCluster(tmp_path / "cluster")
    try:
        await brokers.start()
        # Two nodes can elect a leader: the third may not listen yet.
        await brokers.await_caught_up(brokers.brokers, within_s=PATIENCE_S)
        yield brokers
    finally:
        print(await brokers.describe())  # noqa: T201  # shown by pytest when the test failed
        await brokers.close()
    complaints = {name: broker.complaints() for name, broker in brokers.brokers.items()}
    assert not any(complaints.values()), complaints
