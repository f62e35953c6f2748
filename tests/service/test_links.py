"""The channels from broker to broker."""

from __future__ import annotations

import asyncio
from typing import cast

import grpc
import grpc.aio
import pytest

from tests.client.fake_broker import FakeBroker, serving
from tests.name_server import name_server
from tests.patience import PATIENCE_S
from tq_cluster.service.links import LARGE_REPLIES_MAX, Links, _Fetched

"""Half of what gRPC would wait before it looks a name up again."""


@pytest.mark.slow
async def test_a_broker_that_came_back_at_another_address_is_found() -> None:
    links = Links()
    async with name_server("127.0.0.1") as (names, by_name):
        async with serving(FakeBroker()) as address:
            port = address.rpartition(":")[2]
            target = f"{by_name}broker.example:{port}"
            assert await links.connected(target, PATIENCE_S)
        await links._channel(target).wait_for_state_change(grpc.ChannelConnectivity.READY)
        names.address = "127.0.0.2"
        async with serving(FakeBroker(), at=f"127.0.0.2:{port}"):
            assert await links.connected(target, PATIENCE_S)
        await links.close()


class Sending:
    """A call to another node that has been answered there."""

    def __init__(self, reading: list[int], may_end: asyncio.Event) -> None:
        self._reading = reading
        self._may_end = may_end

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def read(self) -> bytes:
        self._reading.append(1)
        await self._may_end.wait()
        return b"reply"


async def test_replies_that_may_be_large_stay_with_the_other_node_but_for_a_few() -> None:
    links = Links()
    reading: list[int] = []
    may_end = asyncio.Event()

    async def fetch() -> bytes:
        sent = cast("grpc.aio.UnaryStreamCall[bytes, bytes]", Sending(reading, may_end))
        return await _Fetched(sent, links._large_places)

    fetching = [asyncio.create_task(fetch()) for _ in range(3 * LARGE_REPLIES_MAX)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(reading) == LARGE_REPLIES_MAX
    may_end.set()

    assert await asyncio.gather(*fetching) == [b"reply"] * len(fetching)
