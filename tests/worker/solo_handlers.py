"""Handlers that have a process to themselves, and one with a limit."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from tests.worker.sample_handlers import note
from tq_worker import TaskContext, task


@task("solo-pid", execution="process")
def solo_pid(_payload: bytes, _context: TaskContext) -> bytes:
    return str(os.getpid()).encode()


@task("solo-async", execution="process")
async def solo_async(_payload: bytes, _context: TaskContext) -> bytes:
    return str(os.getpid()).encode()


@task("solo-until-file", execution="process")
def solo_until_file(payload: bytes, _context: TaskContext) -> bytes:
    """Finish once a file beside the facts exists."""
    note(payload, "solo started")
    path = Path(payload.decode() + ".go")
    while not path.exists():
        time.sleep(0.005)
    return str(os.getpid()).encode()


@task("solo-segfault", execution="process")
def solo_segfault(_payload: bytes, _context: TaskContext) -> None:
    signal.raise_signal(signal.SIGSEGV)


@task("solo-stubborn", execution="process")
def solo_stubborn(payload: bytes, _context: TaskContext) -> None:
    note(payload, "stubborn started")
    while True:
        time.sleep(1)


@task("solo-until-cancelled", execution="process")
def solo_until_cancelled(payload: bytes, context: TaskContext) -> None:
    note(payload, "solo started")
    context.cancelled.wait_blocking()
    note(payload, f"stopped: {context.cancelled.reason}")
    context.raise_if_cancelled()


@task("two-at-a-time", concurrency=2)
async def two_at_a_time(payload: bytes, _context: TaskContext) -> None:
    """Record start and end; wait until a file beside the facts file exists."""
    note(payload, "in")
    path = Path(payload.decode() + ".go")
    while not path.exists():  # noqa: ASYNC110, ASYNC240 - the test is another process
        await asyncio.sleep(0.005)
    note(payload, "out")


_KEPT: list[bytes] = []


@task("leak")
async def leak(payload: bytes, _context: TaskContext) -> bytes:
    """Keep so many MB for ever; return the process that keeps them."""
    _KEPT.append(b"x" * (int(payload) * 1_000_000))
    return str(os.getpid()).encode()
