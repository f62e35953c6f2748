"""What large requests took is the system's again once they are over."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from tests.patience import PATIENCE_S
from tq_process import memory

SCRIPT = """
import ctypes
from tq_process import memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def held_kib():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("RssAnon")).split()[1])

def take(size):
    piece = libc.malloc(size)
    ctypes.memset(piece, 1, size)
    return piece

if ASKED:
    memory.return_memory()
libc.free(take(31 << 20))  # glibc takes the next of its size from the heap
before = held_kib()
large, small = [], []
for _ in range(10):
    large.append(take(8 << 20))
    small.append(take(1 << 12))  # lives on behind each
for piece in large:
    libc.free(piece)
print(held_kib() - before)
"""


def kept_kib(*, asked: bool) -> int:
    script = SCRIPT.replace("ASKED", str(asked))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_freed_memory_goes_back_although_something_lives_behind_it() -> None:
    assert kept_kib(asked=True) < 8 << 10
    # Or else the test says nothing of what is asked of the C library.
    assert kept_kib(asked=False) > 64 << 10


class Process:
    """What a process holds, and how often it was asked to give some of it back."""

    def __init__(self) -> None:
        self.bytes = self.keeps = 100 << 20
        self.grows_by = 0
        self.looks = asyncio.Semaphore(0)
        self.trims = 0

    def held(self) -> int:
        self.looks.release()
        self.bytes += self.grows_by
        return self.bytes

    def trim(self) -> None:
        self.trims += 1
        self.bytes = self.keeps

    async def looked_at(self, times: int = 5) -> None:
        """Wait until it was looked at so often more."""
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(times):
                await self.looks.acquire()


@pytest.fixture
async def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    process = Process()
    monkeypatch.setattr(memory, "EVERY_S", 0.002)
    memory.FreedMemory(asyncio.get_running_loop(), process.held, process.trim).begin()
    process.looks = asyncio.Semaphore(0)
    process.trims = 0
    return process


async def test_what_a_burst_left_is_given_back_once_it_is_over(process: Process) -> None:
    process.grows_by = 10 << 20
    await process.looked_at()
    assert process.trims == 0

    process.grows_by = 0
    await process.looked_at()

    assert process.trims == 1
    assert process.bytes == process.keeps


async def test_what_is_freed_after_a_trim_in_the_middle_of_a_burst_is_given_back_too(
    process: Process,
) -> None:
    process.bytes = process.keeps = 300 << 20
    await process.looked_at()
    assert process.trims >= 1

    process.keeps = 110 << 20  # the calls end, and it holds as much
    await process.looked_at(10)

    assert process.bytes == process.keeps


async def test_what_does_not_go_back_is_tried_again_ever_less_often(process: Process) -> None:
    process.bytes = process.keeps = 300 << 20

    await process.looked_at(100)

    assert 4 <= process.trims <= 8


async def test_a_burst_is_trimmed_at_once_after_trims_that_returned_little(
    process: Process,
) -> None:
    process.bytes = process.keeps = 300 << 20
    await process.looked_at(75)  # the next trim is twenty looks away

    before = process.trims
    process.bytes = 400 << 20
    await process.looked_at(4)

    assert process.trims > before
    assert process.bytes == process.keeps


async def test_a_little_more_than_before_is_let_be(process: Process) -> None:
    process.bytes = process.keeps = (100 << 20) + memory.SLACK_BYTES

    await process.looked_at()

    assert process.trims == 0


def test_holes_amid_the_heap_go_back() -> None:
    script = """
import asyncio
from tq_process import memory

memory.return_memory()
memory.EVERY_S = 0.05

async def main():
    memory.FreedMemory(asyncio.get_running_loop()).begin()
    before = memory.held_bytes()
    pieces = [bytes(100_000) for _ in range(1_000)]
    behind = [bytes(1_000) for _ in range(1_000)]
    kept = pieces[::20]
    most = memory.held_bytes()
    pieces.clear()
    async with asyncio.timeout(120):
        while memory.held_bytes() > before + 30e6:
            await asyncio.sleep(0.05)
    print(most - before)

asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) > 50e6
