"""A broker whose name stands for another address once it is back, as a container's may."""

from __future__ import annotations

import pytest

from tests.client.fake_broker import FakeBroker, serving
from tests.name_server import name_server
from tq_client import AsyncClient, connections

GRPCS_OWN_WAIT_S = 30


@pytest.mark.slow
async def test_a_client_finds_a_broker_that_came_back_at_another_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after = FakeBroker(), FakeBroker()
    async with name_server("127.0.0.1") as (names, by_name):
        monkeypatch.setattr(connections, "RESOLVER", by_name)
        async with serving(before) as address:
            port = address.rpartition(":")[2]
            client = AsyncClient(f"broker.example:{port}", timeout_s=GRPCS_OWN_WAIT_S / 2)
            await client.cluster_status()
        names.address = "127.0.0.2"
        async with serving(after, at=f"127.0.0.2:{port}"), client:
            await client.cluster_status()

    assert len(before.calls) == len(after.calls) == 1
