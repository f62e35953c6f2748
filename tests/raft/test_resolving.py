"""Names of peers are resolved beside everything else, and the last good address is kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from tests.raft.real_cluster import free_addresses
from tq_cluster.raft import resolving
from tq_cluster.raft.network import TcpNetwork
from tq_cluster.raft.resolving import Resolver
from tq_common import addresses


class Names:
    """A resolver that a test can hang, and whose answers it sets."""

    def __init__(self, **found: Sequence[str]) -> None:
        self.found = found
        self.asked: list[str] = []
        self.hangs = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    def __call__(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        self.hangs.set()
        assert self.answers.wait(30)
        if name not in self.found:
            raise OSError(f"{name} is not known")
        return self.found[name]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%eth0"])
async def test_an_address_needs_no_resolver(address: str) -> None:
    names = Names()

    assert await Resolver(names).addresses(address) == (address,)

    assert names.asked == []


async def test_a_name_is_asked_for_once_at_a_time_however_often_it_is_dialled() -> None:
    names = Names(n2=["10.0.0.2"])
    names.answers.clear()
    resolver = Resolver(names)
    asking = [asyncio.create_task(resolver.addresses("n2")) for _ in range(50)]
    await asyncio.to_thread(names.hangs.wait)
    asking.pop().cancel()

    names.answers.set()

    assert [await each for each in asking] == [["10.0.0.2"]] * 49
    assert names.asked == ["n2"]


async def test_the_last_good_address_is_used_while_the_resolver_hangs_or_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolving, "HOLD_S", 0.01)
    names = Names(n2=["10.0.0.2"])
    resolver = Resolver(names)
    assert await resolver.addresses("n2") == ["10.0.0.2"]

    names.answers.clear()
    assert await resolver.addresses("n2") == ["10.0.0.2"]
    del names.found["n2"]
    names.answers.set()
    assert await resolver.addresses("n2") == ["10.0.0.2"]


async def test_a_name_that_moved_is_found_at_its_new_address() -> None:
    names = Names(n2=["10.0.0.2"])
    resolver = Resolver(names)
    await resolver.addresses("n2")

    names.found["n2"] = ["10.0.0.7"]

    assert await resolver.addresses("n2") == ["10.0.0.7"]


async def test_a_name_that_was_never_found_is_an_error() -> None:
    with pytest.raises(OSError, match="n2 is not known"):
        await Resolver(Names()).addresses("n2")
    with pytest.raises(OSError, match="is no name"):
        await Resolver().addresses("n" * 100)


async def test_a_resolver_that_hangs_holds_up_no_thread_but_its_own() -> None:
    """Snapshots and backups are made in the threads that asyncio has for everybody."""
    names = Names()
    names.answers.clear()
    network = TcpNetwork(dial_timeout_s=0.01, resolver=Resolver(names))
    failures: asyncio.Queue[OSError] = asyncio.Queue()
    for number in range(40):
        network.dial(f"n{number % 7}:7101", asyncio.Protocol(), failures.put_nowait)
    for _ in range(40):
        assert isinstance(await failures.get(), TimeoutError)

    assert await asyncio.to_thread(lambda: "made") == "made"

    assert sorted(names.asked) == [f"n{number}" for number in range(7)]
    names.answers.set()


async def test_of_several_addresses_the_one_that_answers_is_taken() -> None:
    made: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Arrived(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set_result(None)
            transport.close()

    [address] = free_addresses(1)
    names = Names(n2=["::1", "127.0.0.1"])
    network = TcpNetwork(dial_timeout_s=10, resolver=Resolver(names))
    stop = await network.listen(address, asyncio.Protocol)

    network.dial(f"n2:{addresses.split(address)[1]}", Arrived(), made.set_exception)

    await made
    stop()
