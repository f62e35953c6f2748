"""A port accepts no more connections than it can keep, and says so once."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import socket
from collections.abc import Iterator

import pytest

from tests.service.fakes import until
from tq_process import accepting
from tq_process.accepting import Listener, Reason


class Kept(asyncio.Protocol):
    """A connection that stays."""

    made: list[Kept]

    def __init__(self, made: list[Kept]) -> None:
        self._made = made
        self.transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._made.append(self)


class Port:
    """A port that notes what it refuses."""

    def __init__(self, *, total_max: int = 3, per_address_max: int = 100) -> None:
        self.refused: list[Reason] = []
        self.made: list[Kept] = []
        self.listener = Listener(
            "raft",
            total_max=total_max,
            per_address_max=per_address_max,
            refused=self.refused.append,
        )

    async def open(self) -> Port:
        await self.listener.listen("127.0.0.1", 0, lambda: Kept(self.made))
        return self

    def close(self) -> None:
        self.listener.close()
        for each in self.made:
            assert each.transport is not None
            each.transport.close()


@pytest.fixture
def callers() -> Iterator[list[socket.socket]]:
    """Sockets of callers, closed in the end."""
    opened: list[socket.socket] = []
    yield opened
    for each in opened:
        each.close()


def call(port: Port, callers: list[socket.socket], *, source: str = "127.0.0.1") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port.listener.port), source_address=(source, 0))
    made.setblocking(False)
    callers.append(made)
    return made


async def is_closed(caller: socket.socket) -> bool:
    try:
        return await asyncio.get_running_loop().sock_recv(caller, 1) == b""
    except ConnectionResetError:
        return True


async def test_no_more_than_so_many_connections_stand_and_one_that_ends_makes_room(
    callers: list[socket.socket],
) -> None:
    port = await Port(total_max=3).open()
    kept = [call(port, callers) for _ in range(3)]
    await until(lambda: len(port.made) == 3, "three are accepted")

    assert await is_closed(call(port, callers))
    assert (port.refused, port.listener.connections) == (["total"], 3)

    kept[0].close()
    assert port.made[0].transport is not None
    port.made[0].transport.close()
    await until(lambda: port.listener.connections == 2, "one has ended")
    call(port, callers)
    await until(lambda: len(port.made) == 4, "another is accepted")
    assert port.refused == ["total"]
    port.close()


async def test_one_address_cannot_take_the_places_of_the_others(
    callers: list[socket.socket],
) -> None:
    port = await Port(total_max=10, per_address_max=2).open()
    for _ in range(2):
        call(port, callers)
    await until(lambda: len(port.made) == 2, "two are accepted")

    for _ in range(20):
        assert await is_closed(call(port, callers))
    call(port, callers, source="127.0.0.2")

    await until(lambda: len(port.made) == 3, "another address is accepted")
    assert port.refused == ["address"] * 20
    port.close()


async def test_a_storm_is_logged_once_in_words(
    callers: list[socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    port = await Port(total_max=1).open()
    call(port, callers)
    await until(lambda: len(port.made) == 1, "one is accepted")

    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            assert await is_closed(call(port, callers))

    [line] = caplog.records
    assert line.getMessage() == "connections are refused"
    assert (vars(line)["port"], vars(line)["why"]) == ("raft", "it has 1 connections already")
    assert line.exc_info is None
    assert port.refused == ["total"] * 100
    port.close()


class NoDescriptors:
    """A listening socket of a process that has no descriptor left."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.asked = 0
        self.exhausted = True

    def accept(self) -> tuple[socket.socket, object]:
        self.asked += 1
        if self.exhausted:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._inner.accept()

    def fileno(self) -> int:
        return self._inner.fileno()

    def getsockname(self) -> object:
        return self._inner.getsockname()

    def close(self) -> None:
        self._inner.close()


async def test_without_descriptors_the_port_rests_and_then_goes_on(
    callers: list[socket.socket],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accepting, "WITHOUT_DESCRIPTORS_S", 0.01)
    bound = accepting._bound
    sockets: list[NoDescriptors] = []

    def without(*address: object) -> NoDescriptors:
        sockets.append(NoDescriptors(bound(*address)))  # type: ignore[arg-type]
        return sockets[-1]

    monkeypatch.setattr(accepting, "_bound", without)
    port = Port()
    await port.listener.listen("127.0.0.1", 0, lambda: Kept(port.made))
    made = socket.create_connection(("127.0.0.1", sockets[0]._inner.getsockname()[1]))
    callers.append(made)

    with caplog.at_level(logging.WARNING):
        await until(lambda: len(port.refused) >= 3, "it tried again and again")
        # Once each time, not once for every connection that the backlog takes.
        assert sockets[0].asked == len(port.refused)
        sockets[0].exhausted = False
        await until(lambda: len(port.made) == 1, "the one that waited is accepted")

    assert set(port.refused) == {"descriptors"}
    [line] = caplog.records
    assert vars(line)["why"] == "the process has no descriptor left for them"
    port.close()


async def test_the_loop_does_other_things_between_two_batches_of_connections(
    callers: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "BATCH", 4)
    monkeypatch.setattr(accepting, "PER_WINDOW", 10)
    port = await Port(total_max=1_000).open()
    for _ in range(40):
        call(port, callers)
    seen = [0]

    while len(port.made) < 40:
        await asyncio.sleep(0)
        seen.append(port.listener.connections)

    steps = [later - before for before, later in itertools.pairwise(seen)]
    assert max(steps) <= 4
    port.close()
