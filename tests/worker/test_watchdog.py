"""A worker that no broker answers, and one that stands still."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import psutil
import pytest

from tests.patience import PATIENCE_S
from tests.worker.conftest import SAMPLES, SHIPPED, Facts
from tests.worker.fake_broker import FakeBroker
from tests.worker.test_command import handler_processes
from tq_worker.broker.liveness import Liveness
from tq_worker.wire import exits

Process = asyncio.subprocess.Process
Run = Callable[..., Awaitable[Process]]


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Start the command, and kill every process that still runs at the end."""
    processes: list[Process] = []

    async def start(address: str, *, deaf_after: str = "2s", program: str = "") -> Process:
        command = ("-c", program) if program else ("-m", "tq_worker")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *command, "run", "--handlers", f"{SHIPPED},{SAMPLES}"),
            *("--queues", "q", "--address", address, "--deaf-after", deaf_after),
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


class Hole:
    """Accepts connections and passes them on, until it swallows all that is sent."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self.swallows = False
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()

    @property
    def address(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._broker.port)
        self._writers += [writer, back]
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if not self.swallows:
                    writer.write(data)
                    await writer.drain()


@pytest.mark.slow
async def test_a_worker_whose_connection_is_a_black_hole_connects_anew_and_then_gives_up(
    broker: FakeBroker, run: Run
) -> None:
    async with Hole(broker) as hole:
        process = await run(hole.address)
        await broker.until_ended(await broker.submit("echo"))
        before = hole.accepted

        hole.swallows = True
        _, errors = await process.communicate()

    assert process.returncode == exits.DEAF, errors.decode()
    assert hole.accepted > before
    lines = errors.decode().splitlines()
    assert [line for line in lines if "no claim is answered: connecting anew" in line]
    assert [line for line in lines if "worker gives up" in line and "did not help" in line]
    assert "Traceback" not in errors.decode()


@pytest.mark.slow
async def test_a_worker_whose_brokers_take_claims_and_never_answer_gives_up(
    broker: FakeBroker, run: Run
) -> None:
    broker.mute = True

    process = await run(broker.address)
    _, errors = await process.communicate()

    assert process.returncode == exits.DEAF, errors.decode()
    assert "no claim was answered for 4 s, connecting anew did not help" in errors.decode()
    assert "Traceback" not in errors.decode()


@pytest.mark.slow
async def test_a_worker_that_is_answered_again_in_time_goes_on(
    broker: FakeBroker, run: Run
) -> None:
    async with Hole(broker) as hole:
        process = await run(hole.address, deaf_after="5s")
        await broker.until_ended(await broker.submit("echo"))
        assert process.stderr is not None

        hole.swallows = True
        while b"connecting anew" not in (line := await process.stderr.readline()):
            assert line, "it ended without a word"
        hole.swallows = False

        await broker.until_ended(await broker.submit("echo"))
        assert process.returncode is None


STANDS_STILL = """
import asyncio, sys, time
from tq_worker.__main__ import main
from tq_worker.worker import Worker
work = Worker._work
async def stand_still(self):
    asyncio.get_running_loop().call_later(0.5, time.sleep, 1000)
    await work(self)
Worker._work = stand_still
sys.argv[0] = "tq-worker"
main()
"""


@pytest.mark.slow
async def test_a_worker_whose_event_loop_stands_still_ends_with_its_handlers(
    broker: FakeBroker, run: Run, facts: Facts
) -> None:
    process = await run(broker.address, program=STANDS_STILL)
    await broker.submit("stubborn", facts.payload)
    await facts.until("started")
    [child] = handler_processes(process)

    _, errors = await process.communicate()

    assert process.returncode == exits.DEAF, errors.decode()
    assert "worker ends: its event loop stands still" in errors.decode()
    assert psutil.wait_procs([child], timeout=PATIENCE_S)[1] == []


def test_a_claim_that_is_answered_without_tasks_is_no_silence() -> None:
    now_s = 100.0
    liveness = Liveness(lambda: now_s)
    liveness.asked()
    now_s = 130.0
    assert liveness.silence_s() == 30.0
    liveness.asked()
    assert liveness.silence_s() == 30.0

    liveness.answered()

    now_s = 500.0
    assert liveness.silence_s() == 0.0
