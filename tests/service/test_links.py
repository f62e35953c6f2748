"""The channels from broker to broker."""

from __future__ import annotations

import grpc

from tests.client.fake_broker import FakeBroker, serving
from tests.name_server import name_server
from tq_cluster.service.links import Links

WITHIN_S = 15
"""Half of what gRPC would wait before it looks a name up again."""


async def test_a_broker_that_came_back_at_another_address_is_found() -> None:
    links = Links()
    async with name_server("127.0.0.1") as (names, by_name):
        async with serving(FakeBroker()) as address:
            port = address.rpartition(":")[2]
            target = f"{by_name}broker.example:{port}"
            assert await links.connected(target, WITHIN_S)
        await links._channel(target).wait_for_state_change(grpc.ChannelConnectivity.READY)
        names.address = "127.0.0.2"
        async with serving(FakeBroker(), at=f"127.0.0.2:{port}"):
            assert await links.connected(target, WITHIN_S)
        await links.close()
