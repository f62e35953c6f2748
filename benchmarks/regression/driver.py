"""Run one cluster, one worker and one caller of a checkout, and measure what they use.

`benchmarks.regression` starts this file once for each side, with the interpreter of that checkout
and the checkout first on PYTHONPATH. So the packages under test are that side's, and this code,
which decides what is done and counted, is the same for both. Therefore it imports nothing of this
project but what a user of it does: the client, and the commands `tq_cluster` and `tq_worker`.

It reads one JSON object a line, such as ``{"workload": "lone", "tasks": 100}``, and answers each
with one, the processor seconds of each group of processes. It ends when its input does.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tq_client import AsyncClient, QueueSettings, TqError, task_spec

LONE, STORED = "lone", "stored"
TYPE = "echo"
PAYLOAD = bytes(range(256))
CALL_TASKS = 100
CONCURRENCY = 500
WARM_UP_LONE = 100
WARM_UP_STORED = 4_000
UP_S = 60.0
DRAINED_S = 120.0
END_S = 10.0
PACKAGES = {"tq", "tq_client", "tq_cluster", "tq_worker"}


def cpu_s(pid: int) -> float:
    """Read the processor time of a process, to the nanosecond.

    It includes threads that have ended, which the sum over /proc/PID/task leaves out: a change that
    starts a thread for each task would look free. The number of the clock is what
    clock_getcpuclockid(3) returns on Linux.
    """
    return time.clock_gettime((~pid << 3) | 2)


def descendants(pid: int) -> list[int]:
    """List the children of a process and theirs."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (thread / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def main() -> None:
    """Start everything, and measure what is asked for until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--addresses", required=True, help="raft and API of each broker, by comma")
    arguments = parser.parse_args()
    _check_origin(arguments.checkout)
    # Ctrl-C is for the program that started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _processes(arguments.folder, arguments.addresses.split(",")) as (api, groups):
        asyncio.run(_serve(api, groups))


async def _serve(addresses: Sequence[str], groups: Callable[[], Mapping[str, list[int]]]) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncClient(addresses) as client:
        await _up(client)
        work: Mapping[str, Callable[[int], Coroutine[None, None, None]]] = {
            "lone": lambda tasks: _lone(client, tasks),
            "calls": lambda tasks: _calls(client, tasks),
            "drain": lambda tasks: _drain(client, tasks),
        }
        await _pause(client, paused=True)
        await _lone(client, WARM_UP_LONE)
        await _calls(client, WARM_UP_STORED)
        await _drain(client, WARM_UP_STORED)
        answer: dict[str, float] = {}
        while True:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
            line = await loop.run_in_executor(None, sys.stdin.readline)
            if not line:
                return
            asked = json.loads(line)
            measured = groups()
            before = _used(measured)
            await work[asked["workload"]](asked["tasks"])
            if groups() != measured:
                sys.exit("a process of the worker was replaced while it was measured")
            answer = {group: used - before[group] for group, used in _used(measured).items()}


def _used(groups: Mapping[str, list[int]]) -> dict[str, float]:
    return {group: sum(map(cpu_s, pids)) for group, pids in groups.items()}


async def _up(client: AsyncClient) -> None:
    """Wait until a task is run: the brokers have a leader, and the worker has claimed."""
    task_id = await client.submit(LONE, TYPE, PAYLOAD, timeout_s=UP_S)
    await client.wait(task_id, timeout_s=UP_S)


async def _lone(client: AsyncClient, tasks: int) -> None:
    """Submit a task and wait for its end, one after the other."""
    for _ in range(tasks):
        await client.wait(await client.submit(LONE, TYPE, PAYLOAD), timeout_s=60)


async def _calls(client: AsyncClient, tasks: int) -> None:
    """Submit tasks of a paused queue in calls of 100, one call after the other."""
    for _ in range(tasks // CALL_TASKS):
        outcomes = await client.submit_many([task_spec(STORED, TYPE, PAYLOAD)] * CALL_TASKS)
        for outcome in outcomes:
            if isinstance(outcome, TqError):
                raise outcome


async def _drain(client: AsyncClient, tasks: int) -> None:
    """Let the worker run the tasks of the paused queue, and pause it again."""
    stats = await client.queue_stats(STORED)
    if stats.pending != tasks:
        sys.exit(f"{tasks} tasks were to be drained, and the queue has {stats}")
    until = stats.completed + tasks
    deadline_s = time.monotonic() + DRAINED_S
    await _pause(client, paused=False)
    while (stats := await client.queue_stats(STORED)).completed < until:
        if time.monotonic() > deadline_s:
            sys.exit(f"not drained in {DRAINED_S:g} s: {stats}")
        await asyncio.sleep(0.05)
    await _pause(client, paused=True)


async def _pause(client: AsyncClient, *, paused: bool) -> None:
    await client.configure_queue(STORED, QueueSettings(paused=paused), fields=["paused"])


@contextmanager
def _processes(
    folder: Path, addresses: Sequence[str]
) -> Iterator[tuple[list[str], Callable[[], Mapping[str, list[int]]]]]:
    """Run three brokers and a worker; yield where the brokers listen, and whose time counts."""
    names = [f"n{number + 1}" for number in range(len(addresses) // 2)]
    api = list(addresses[1::2])
    members = ",".join(
        f"{name}={raft}/{at}" for name, raft, at in zip(names, addresses[::2], api, strict=True)
    )
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *command: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    try:
        brokers = [
            start(
                *(name, "tq_cluster", "serve", "--node-id", name),
                *("--data-dir", str(folder / name), "--members", members),
            )
            for name in names
        ]
        worker = start(
            *("worker", "tq_worker", "run", "--handlers", "tq_worker.handlers"),
            *("--queues", f"{LONE},{STORED}", "--concurrency", str(CONCURRENCY)),
            *("--address", ",".join(api)),
        )
        yield (
            api,
            lambda: {
                "brokers": [each.pid for each in brokers],
                "worker": [worker.pid, *sorted(descendants(worker.pid))],
                "caller": [os.getpid()],
            },
        )
    finally:
        # The worker is started last. It ends in order, so that it waits for its handler process.
        for process in started[len(names) :]:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        for process in started:
            process.kill()
            process.wait()


def _check_origin(checkout: Path) -> None:
    """Exit if the packages that are imported here are not those of the checkout."""
    for name in sorted(PACKAGES | {path.name for path in checkout.glob("tq_*") if path.is_dir()}):
        spec = importlib.util.find_spec(name)
        origin = spec.origin if spec is not None else None
        if origin is None or not Path(origin).is_relative_to(checkout):
            sys.exit(f"{name} is not that of {checkout}: {origin}")


if __name__ == "__main__":
    main()
