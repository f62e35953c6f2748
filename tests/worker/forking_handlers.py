"""Handlers that start other processes; the payload names a file for the pids."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

from tests.worker.sample_handlers import note
from tq_worker import TaskContext, task


def start(payload: bytes) -> None:
    """Leave a process running, and another below a shell that has ended."""
    sleeping = subprocess.Popen(["/bin/sleep", "1000"])
    orphan = subprocess.run(
        ["/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"],
        stdout=subprocess.PIPE,
        check=True,
    )
    note(payload, f"pids {os.getpid()} {sleeping.pid} {int(orphan.stdout)}")


@task("starts-solo", execution="process")
async def starts_solo(payload: bytes, _context: TaskContext) -> None:
    start(payload)
    await asyncio.Event().wait()


@task("starts-stubborn-solo", execution="process")
def starts_stubborn_solo(payload: bytes, _context: TaskContext) -> None:
    start(payload)
    while True:
        time.sleep(1)


@task("starts")
def starts(payload: bytes, _context: TaskContext) -> None:
    start(payload)
    while True:
        time.sleep(1)


@task("forks")
def forks(payload: bytes, context: TaskContext) -> bytes:
    if os.fork() == 0:
        note(payload, f"copy {os.getpid()}")
        if context.labels["how"] == "raise":
            raise ValueError("of a copy")
        if context.labels["how"] == "exit":
            sys.exit(7)
        return b"copy"
    _, status = os.wait()
    return str(os.waitstatus_to_exitcode(status)).encode()


@task("forks-async")
async def forks_async(payload: bytes, context: TaskContext) -> bytes:
    return forks(payload, context)


@task("leaves-orphans")
def leaves_orphans(_payload: bytes, _context: TaskContext) -> bytes:
    left = ["/bin/sh", "-c", "sleep 0.1 >/dev/null & echo $!"]
    return subprocess.run(left, stdout=subprocess.PIPE, check=True).stdout


@task("exit-code")
def exit_code(_payload: bytes, _context: TaskContext) -> bytes:
    """Return how a child process of the handler ended, as its parent sees it."""
    killed = subprocess.run(["/bin/sh", "-c", "kill -9 $$"], check=False)
    return str(killed.returncode).encode()


@task("signals-its-group")
def signals_its_group(_payload: bytes, _context: TaskContext) -> None:
    os.killpg(0, signal.SIGTERM)
