"""Flame graphs of brokers and worker under load: `python -m benchmarks.flames --out FOLDER`.

Three brokers and a `tq-worker` on loopback; py-spy records the leader, one follower, the worker's
parent and one of its children, all at once, under each workload. py-spy is not among the locked
dependencies: without it the command says how to install it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Final

from benchmarks import machine
from benchmarks.cluster import brokers, fill, payload
from benchmarks.lone import children, scheduled_s
from benchmarks.plot import picture
from benchmarks.work import ROOT, worker
from chaos.cluster.broker import TQ_CLUSTER
from chaos.cluster.processes import ProcessCluster
from chaos.interrupts import end_in_order
from tq_client import AsyncClient, TqError, task_spec

EXIT_NEEDS: Final = 2
EXIT_INTERRUPTED: Final = 130
SERVED: Final = "bench"
"""The queue that the worker serves."""
BULK: Final = "bulk"
"""The queue that no worker serves."""
CALL_TASKS: Final = 100
BULK_CALLERS: Final = 8
BULK_TASKS_MAX: Final = 2_000_000
DRAIN_PER_S: Final = 15_000
"""More tasks than the worker ends in a second: it has work all the time."""
WARM_UP_S: Final = 2.0
READY_S: Final = 60.0
LATE_S: Final = 60.0
"""How much longer than it should py-spy may take."""
WITHIN_S: Final = 20.0
TRIED_S: Final = 60.0
RECORDED: Final = re.compile(r"Samples: (\d+) Errors: (\d+)")
NO_SAMPLES: Final = "No stack counts found"
TITLE: Final = re.compile(r'(<text id="title"[^>]*>)[^<]*(</text>)')
REFUSED: Final = re.compile(r"permission denied|not permitted", re.IGNORECASE)

ENTER: Final = (
    "import os, sys; os.chdir(sys.argv[1]);"
    " os.execv(sys.argv[2], [sys.argv[2], '-m', 'tq_cluster', *sys.argv[3:]])"
)
"""Becomes the broker of another checkout: it keeps the process id."""


class NeedsError(Exception):
    """Flame graphs cannot be recorded here; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkout:
    """A checkout with its own virtual environment."""

    folder: Path
    python: str
    label: str = ""
    """``before`` or ``after``, if there are two."""

    @property
    def launcher(self) -> Sequence[str]:
        """Arguments of our interpreter that start a broker of this checkout."""
        if self.folder == ROOT:
            return TQ_CLUSTER
        return ("-c", ENTER, str(self.folder), self.python)

    def version(self) -> str:
        """Name the commit, and whether files differ from it."""
        git = ["git", "-C", str(self.folder)]
        with suppress(OSError, subprocess.CalledProcessError):
            commit, changed = (
                subprocess.run(
                    [*git, *arguments], check=True, capture_output=True, text=True
                ).stdout.strip()
                for arguments in (
                    ("rev-parse", "--short", "HEAD"),
                    ("status", "--porcelain", "--untracked-files=no"),
                )
            )
            return f"commit {commit}{' with changes' if changed else ''}"
        return "unknown commit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the cluster does while it is recorded."""

    says: str
    load: Callable[[AsyncClient], Awaitable[None]]
    """Runs until it is cancelled."""
    tasks_per_s: int = 0
    """So many tasks for each second are submitted before the worker starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flame:
    """One flame graph."""

    file: str
    workload: str
    process: str
    checkout: str
    samples: int
    """Of threads that were busy; an idle process has none."""
    errors: int
    """Samples that were taken while the stack changed, and are left out."""


async def _lone(client: AsyncClient) -> None:
    body = payload()
    while True:
        await client.wait(await client.submit(SERVED, "noop", body))


async def _bulk(client: AsyncClient) -> None:
    call = [task_spec(BULK, "noop", payload())] * CALL_TASKS
    left = BULK_TASKS_MAX

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= CALL_TASKS
            for outcome in await client.submit_many(call):
                if isinstance(outcome, TqError):
                    raise outcome

    async with asyncio.TaskGroup() as group:
        for _ in range(BULK_CALLERS):
            group.create_task(caller())


async def _drain(client: AsyncClient) -> None:
    """Leave all the work to the worker."""
    del client
    await asyncio.Event().wait()


WORKLOADS: Final[Mapping[str, Workload]] = {
    "lone": Workload(says="lone tasks, one at a time from submit to done", load=_lone),
    "bulk": Workload(
        says=f"bulk submit in calls of {CALL_TASKS}, with an idle worker",
        load=_bulk,
    ),
    "drain": Workload(
        says="tasks that wait, drained by tq-worker", load=_drain, tasks_per_s=DRAIN_PER_S
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """Records processes with py-spy."""

    program: str
    out: Path
    seconds: float
    rate: int
    """Samples a second."""

    async def record(self, pid: int, file: str, title: str) -> tuple[int, int]:
        """Write the flame graph of one process; return its numbers of samples and errors."""
        path = self.out / file
        path.unlink(missing_ok=True)
        command = [
            *(self.program, "record", "--pid", str(pid), "--output", str(path)),
            *("--duration", str(max(1, round(self.seconds))), "--rate", str(self.rate)),
            # To pause a process wakes its idle threads, which then count as busy.
            "--nonblocking",
        ]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(self.seconds + LATE_S):
                said = (await process.communicate())[0].decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        found = RECORDED.search(said)
        if process.returncode == 0 and found and path.exists():
            path.write_text(titled(path.read_text(), title))
            return int(found[1]), int(found[2])
        if NO_SAMPLES in said:
            idle = f"No busy thread in {self.seconds:g} s at {self.rate} samples/s: it was idle."
            path.write_text(picture("An idle process", [title, idle], []))
            return 0, 0
        raise NeedsError(f"py-spy did not record {file}:\n{said.strip()}")


def titled(svg: str, title: str) -> str:
    """Replace the title of py-spy, which is its command, with one that says what is shown."""
    return TITLE.sub(lambda found: f"{found[1]}{escape(title)}{found[2]}", svg, count=1)


def find_py_spy() -> str:
    """Find py-spy, first beside our own interpreter."""
    beside = Path(sys.executable).parent / "py-spy"
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise NeedsError(
            "py-spy is not installed, and it is not among the locked dependencies. Install it with"
            f"\n    {sys.executable} -m pip install py-spy"
        )
    return found


def require_permission(program: str) -> None:
    """Read a process of our own, as later the brokers: the system may refuse it."""
    sleeper = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    with subprocess.Popen(sleeper, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            tried = subprocess.run(
                [program, "dump", "--nonblocking", "--pid", str(process.pid)],
                capture_output=True,
                text=True,
                check=False,
                timeout=TRIED_S,
            )
        finally:
            process.kill()
    if tried.returncode == 0:
        return
    said = (tried.stdout + tried.stderr).strip()
    if REFUSED.search(said):
        raise NeedsError(
            "the system does not let py-spy read other processes (ptrace). Run this as root, or"
            " allow it until the next boot with\n    sudo sysctl kernel.yama.ptrace_scope=0\n"
            "In a container, start it with --cap-add SYS_PTRACE."
        )
    raise NeedsError(f"py-spy cannot read a Python process here:\n{said}")


def checkouts(against: Path | None) -> list[Checkout]:
    """This checkout, after the other one if there is one."""
    this = Checkout(folder=ROOT, python=sys.executable)
    if against is None:
        return [this]
    other = against.resolve()
    python = other / ".venv/bin/python"
    for needed in (python, other / "tq_cluster", other / "benchmarks/handlers.py"):
        if not needed.exists():
            raise NeedsError(f"{needed} is missing: --against needs a checkout after `make setup`")
    return [
        Checkout(folder=other, python=str(python), label="before"),
        Checkout(folder=ROOT, python=sys.executable, label="after"),
    ]


def file_name(workload: str, process: str, label: str) -> str:
    """Name the file so that those to compare are side by side."""
    return f"{workload}-{process}{f'.{label}' if label else ''}.svg"


async def record(
    name: str, checkout: Checkout, recorder: Recorder, data_dir: Path | None
) -> list[Flame]:
    """Record all processes at once under one workload, on a cluster of its own."""
    workload = WORKLOADS[name]
    version = ", ".join(filter(None, [checkout.label, checkout.version()]))
    async with (
        brokers(data_dir, checkout.launcher) as cluster,
        AsyncClient(cluster.addresses) as client,
    ):
        tasks = int(workload.tasks_per_s * (recorder.seconds + WARM_UP_S))
        await fill(client, SERVED, "noop", tasks)
        with worker(
            cluster.addresses,
            SERVED,
            cluster.folder / "worker.log",
            python=checkout.python,
            checkout=checkout.folder,
        ) as worker_pid:
            await _await_worker(client)
            async with _under(workload, client) as load:
                await asyncio.sleep(WARM_UP_S)
                found = await _processes(cluster, worker_pid)
                names = {each: file_name(name, each, checkout.label) for each in found}
                counts = await asyncio.gather(
                    *(
                        recorder.record(pid, names[each], f"{each}; {workload.says}; {version}")
                        for each, pid in found.items()
                    )
                )
                if load.done():
                    load.result()
                    raise AssertionError(f"the workload {name} ended before its recording")
            if (await _processes(cluster, worker_pid))["leader"] != found["leader"]:
                raise AssertionError("another broker became the leader: record again")
    return [
        Flame(
            file=names[each],
            workload=name,
            process=each,
            checkout=version,
            samples=samples,
            errors=errors,
        )
        for each, (samples, errors) in zip(found, counts, strict=True)
    ]


@asynccontextmanager
async def _under(workload: Workload, client: AsyncClient) -> AsyncIterator[asyncio.Future[None]]:
    load = asyncio.ensure_future(workload.load(client))
    try:
        yield load
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def _await_worker(client: AsyncClient) -> None:
    """Wait until the worker has ended a task."""
    deadline_s = time.monotonic() + READY_S
    await client.submit(SERVED, "noop", payload())
    while not (await client.queue_stats(SERVED)).completed:
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the worker ended no task in {READY_S:g} s")
        await asyncio.sleep(0.05)


async def _processes(cluster: ProcessCluster, worker_pid: int) -> dict[str, int]:
    """Choose the processes: of the worker's children, the one that has worked most."""
    leader = (await cluster.await_leader(WITHIN_S)).node_id
    pids = {node: broker.pid for node, broker in cluster.brokers.items() if broker.pid is not None}
    follower = next(node for node in pids if node != leader)
    return {
        "leader": pids[leader],
        "follower": pids[follower],
        "worker-parent": worker_pid,
        "worker-child": max(children(worker_pid), key=scheduled_s),
    }


async def _record_all(
    names: Sequence[str],
    against: Sequence[Checkout],
    recorder: Recorder,
    data_dir: Path | None,
    found: list[Flame],
) -> None:
    for name in names:
        for checkout in against:
            print(f"recording {name} {checkout.label}".rstrip(), file=sys.stderr)
            flames = await record(name, checkout, recorder, data_dir)
            found += flames
            for each in flames:
                print(f"{recorder.out / each.file}: {each.samples:,} samples")


def main(arguments: Sequence[str] | None = None) -> None:
    """Record; exit code 2 if something that this needs is missing."""
    chosen = _parser().parse_args(arguments)
    end_in_order()
    found: list[Flame] = []
    try:
        against = checkouts(chosen.against)
        program = find_py_spy()
        require_permission(program)
        chosen.out.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(
            program=program, out=chosen.out, seconds=chosen.seconds, rate=chosen.rate
        )
        described = machine.describe(chosen.data_dir, "python -m benchmarks.flames")
        described["recorded"] = f"{recorder.seconds:g} s at {recorder.rate} samples/s, py-spy"
        bystanders = machine.Bystanders()
        names = [name for name in WORKLOADS if name in (chosen.workloads or WORKLOADS)]
        try:
            asyncio.run(_record_all(names, against, recorder, chosen.data_dir, found))
        finally:
            described["other programs"] = f"took {bystanders.share():.0%} of the cores meanwhile"
            kept = {"machine": described, "flames": [asdict(each) for each in found]}
            (chosen.out / "flames.json").write_text(json.dumps(kept, indent=2) + "\n")
    except NeedsError as needs:
        print(needs, file=sys.stderr)
        sys.exit(EXIT_NEEDS)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flames",
        description=__doc__.partition("\n\n")[2],
        epilog="Workloads: " + "; ".join(f"{name}: {w.says}" for name, w in WORKLOADS.items()),
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", choices=[*WORKLOADS, []])
    parser.add_argument("--out", type=Path, metavar="FOLDER", required=True)
    parser.add_argument(
        "--against",
        type=Path,
        metavar="CHECKOUT",
        help="record another checkout, too, with its own .venv: its files are *.before.svg, and"
        " those of this checkout *.after.svg",
    )
    parser.add_argument(
        "--seconds",
        type=_within(1, 600),
        default=10,
        metavar="S",
        help="how long each workload is recorded (default: %(default)s)",
    )
    parser.add_argument(
        "--rate",
        type=_within(1, 1_000),
        default=100,
        metavar="N",
        help="samples a second (default: %(default)s)",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the brokers keep their data"
    )
    return parser


def _within(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{least} to {most}")
        return value

    return number


if __name__ == "__main__":
    main()
