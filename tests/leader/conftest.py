from __future__ import annotations

import pytest

from tests.leader.bench import Bench


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.log.start()
    return made
