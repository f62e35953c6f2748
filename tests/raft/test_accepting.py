"""The raft port itself: how fast it accepts, and what it does when no descriptor is left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.raft.real_cluster import free_addresses, real_cluster
from tq_cluster.raft.accepting import ADDRESSES_MAX, AcceptRates, Refused, ignored, rated
from tq_cluster.raft.network import TcpNetwork
from tq_common import addresses
from tq_process import accepting


class Clock:
    """Stands until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def let_in(rates: AcceptRates, host: str, tries: int = 10_000) -> int:
    return sum(rates.allow(host) for _ in range(tries))


def test_an_address_has_a_burst_and_then_so_many_a_second() -> None:
    clock = Clock()
    rates = AcceptRates(clock)

    assert let_in(rates, "10.0.0.9") == AcceptRates.A_SECOND * AcceptRates.BURST_S
    clock.now_s += 1.0
    assert let_in(rates, "10.0.0.9") == AcceptRates.A_SECOND


def test_one_address_takes_nothing_from_another() -> None:
    rates = AcceptRates(Clock())
    let_in(rates, "10.0.0.9")

    assert rates.allow("10.0.0.1")


def test_however_many_addresses_there_are_a_peers_is_let_in() -> None:
    clock = Clock()
    rates = AcceptRates(clock)
    rates.trust("10.0.0.1")
    altogether = AcceptRates.ALTOGETHER_A_SECOND * AcceptRates.BURST_S

    assert sum(let_in(rates, f"10.1.{n // 250}.{n % 250}", 5) for n in range(1000)) == altogether
    assert rates.allow("10.0.0.1")


def test_what_is_known_of_addresses_has_a_bound() -> None:
    rates = AcceptRates(Clock())
    for number in range(3 * ADDRESSES_MAX):
        rates.allow(f"fe80::{number:x}")
        rates.trust(f"fe80::{number:x}")

    assert len(rates._buckets) == len(rates._trusted) == ADDRESSES_MAX


@contextlib.asynccontextmanager
async def listening(
    rates: AcceptRates | None = None, refused: Refused = ignored
) -> AsyncIterator[tuple[str, int]]:
    """A port that lets connections in."""
    network = TcpNetwork(refused=refused)
    if rates is not None:
        network._rates = rates
    [address] = free_addresses(1)
    stop = await network.listen(address, asyncio.Protocol)
    try:
        yield addresses.split(address)
    finally:
        stop()


async def test_one_that_comes_too_fast_is_closed_and_said_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rates = AcceptRates(Clock())
    let_in(rates, "127.0.0.1")
    refused: list[str] = []
    async with listening(rates, refused.append) as address:
        for _ in range(20):
            reader, writer = await asyncio.open_connection(*address)
            assert await reader.read() == b""
            writer.close()

    assert [each.getMessage() for each in caplog.records] == ["connections come too fast"]
    assert refused == ["rate"] * 20


class OutOfDescriptors(socket.socket):
    """Has none left for those who wait, until it has been asked often enough."""

    asked = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        if self.asked < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@pytest.fixture
def patient() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accepting, "WITHOUT_DESCRIPTORS_S", 0.01)
        yield patch


async def test_without_descriptors_it_waits_says_so_once_and_goes_on(
    patient: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Arrived(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set_result(None)

    with OutOfDescriptors() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        acceptor = rated([listener], Arrived, AcceptRates(asyncio.get_running_loop().time))
        _, writer = await asyncio.open_connection(*listener.getsockname())

        async with asyncio.timeout(PATIENCE_S):
            await made

        acceptor.close()
        writer.close()
    warnings = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each.getMessage() for each in warnings] == ["no connection can be accepted"]


@pytest.mark.slow
async def test_a_cluster_forms_again_while_connections_flood_every_port(tmp_path: Path) -> None:
    async with real_cluster(tmp_path) as cluster:
        await cluster.put(b"before")
        places = [addresses.split(each) for each in cluster.nodes["n1"].members.values()]
        flood = asyncio.create_task(_flood(places))
        follower = next(each for each in cluster.nodes.values() if each is not cluster.leader())
        follower.kill()
        await follower.start()

        await cluster.settle()

        assert not flood.done()
        flood.cancel()


async def _flood(addresses: list[tuple[str, int]]) -> None:
    held: list[socket.socket] = []
    loop = asyncio.get_running_loop()
    try:
        while True:
            for address in addresses:
                each = socket.socket()
                each.setblocking(False)
                held.append(each)
                with contextlib.suppress(OSError):
                    await loop.sock_connect(each, address)
            for old in held[:-200]:
                old.close()
            del held[:-200]
            await asyncio.sleep(0)
    finally:
        for each in held:
            each.close()
