"""tq beside other queues: what the command skips, ends, counts and writes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from rich.console import Console

from benchmarks.peers import etcd, table
from benchmarks.peers.catalog import SYSTEMS, System
from benchmarks.peers.processes import ROOT, ServerError, Servers
from benchmarks.peers.rounds import Outcome, Row, begin, measure, order, run
from benchmarks.peers.session import AsyncSession, BlockingSession, Calls, Session
from benchmarks.peers.workloads import WORKLOADS, Metric, Sizes, Workload, drain
from tests.patience import PATIENCE_S

MACHINE = {
    "command": "python -m benchmarks.peers",
    "date": "today",
    "cpu": "a fast one",
    "rounds": "3",
}
FAKE = System(
    name="fake",
    module="fake_peer",
    servers="none",
    durability="none",
    client="this test",
    worker="this test",
)
ENDLESS_S = 10 * PATIENCE_S


def workload(name: str, work: float | Exception) -> Workload:
    """Make a workload that takes so long, or fails."""

    async def measured(session: Session, sizes: Sizes) -> Mapping[str, float]:
        if isinstance(work, Exception):
            raise work
        await asyncio.sleep(work)
        return {name: 1.0}

    metric = Metric(key=name, title=name, unit="tasks/s")
    return Workload(name=name, says=name, measure=measured, metrics=(metric,))


class InstantSession(AsyncSession):
    """A queue in memory; its worker ends tasks each time that somebody counts."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        self.calls: list[int] = []
        self.served = ""

    async def submit(self, queue: str) -> None:
        await self.submit_many(queue, 1)

    async def submit_many(self, queue: str, tasks: int) -> None:
        await asyncio.sleep(0)
        self.calls.append(tasks)
        self.tasks[queue] = self.tasks.get(queue, 0) + tasks

    async def to_done(self) -> None:
        await asyncio.sleep(0)

    def worker(self, queue: str) -> AbstractContextManager[None]:
        self.served = queue
        return nullcontext()

    async def remaining(self, queue: str) -> int:
        if queue == self.served:
            self.tasks[queue] = max(0, self.tasks[queue] - 150)
        return self.tasks[queue]


class ThreadsSession(BlockingSession):
    """Counts the calls of its threads."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted: list[str] = []

    def submit(self, queue: str) -> None:
        self.submitted.append(queue)

    def to_done(self) -> None:
        self.submitted.append("done")

    def worker(self, queue: str) -> AbstractContextManager[None]:
        return nullcontext()

    async def remaining(self, queue: str) -> int:
        return 0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> InstantSession:
    """A session that the system `fake` starts."""
    session = InstantSession()

    @asynccontextmanager
    async def running(folder: Path) -> AsyncIterator[InstantSession]:
        yield session

    monkeypatch.setitem(sys.modules, FAKE.module, SimpleNamespace(running=running))
    return session


def said(_text: str) -> None:
    """Progress of no interest here."""


def row(system: System, **outcomes: list[Outcome]) -> Row:
    return Row(system=system, versions="1.0", outcomes=dict(outcomes))


def canned_rows() -> list[Row]:
    """One system measured in three rounds, one that failed in one, one that is skipped."""
    measured = row(
        replace(FAKE, name="steady", lacks={"drain": "it has no worker"}),
        in_flight=[Outcome(values={"in_flight": value}) for value in (900.0, 1_200.0, 1_000.0)],
    )
    failed = row(
        replace(FAKE, name="broken"),
        in_flight=[
            Outcome(values={"in_flight": 50.0}),
            Outcome(fault="ended after 60 s"),
        ],
    )
    return [measured, failed, Row(system=replace(FAKE, name="absent"), skipped="no fake-server")]


def test_a_system_whose_server_is_missing_is_skipped_and_its_row_names_the_server() -> None:
    absent = replace(FAKE, programs={"no-such-server": "--version"})

    (found,) = begin([absent])
    run([found], 1, Sizes(), None, said)

    assert found.skipped == "no no-such-server"
    assert found.outcomes == {}


def test_a_system_whose_library_is_missing_is_skipped_and_its_row_names_the_library() -> None:
    absent = replace(FAKE, libraries={"no-such-library": "no_such_library"})

    assert absent.missing() == "no no-such-library"


def test_every_library_of_a_system_is_pinned_in_the_requirements() -> None:
    text = (ROOT / "benchmarks/peers/requirements.txt").read_text()
    pinned = set(re.findall(r"^([\w-]+)(?:\[[\w,]+\])?==[\d.]+$", text, re.MULTILINE))

    assert {name for each in SYSTEMS for name in each.libraries} - {"tq"} == pinned


def test_a_system_lacks_and_notes_only_workloads_that_there_are() -> None:
    names = {each.name for each in WORKLOADS}

    assert all({*each.lacks, *each.notes} <= names for each in SYSTEMS)


def test_each_round_begins_with_another_system() -> None:
    rows = [row(replace(FAKE, name=name)) for name in "abc"]

    rounds = ["".join(each.system.name for each in order(rows, number)) for number in range(4)]

    assert rounds == ["abc", "bca", "cab", "abc"]


def test_an_interrupted_run_keeps_what_was_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun: list[str] = []

    async def measured(system: System, *_: object) -> dict[str, Outcome]:
        begun.append(system.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return {"alone": Outcome(values={"alone": 1.0})}

    monkeypatch.setattr("benchmarks.peers.rounds.measure", measured)
    rows = begin([replace(FAKE, name=name) for name in "ab"])

    with pytest.raises(KeyboardInterrupt):
        run(rows, 3, Sizes(), tmp_path, said)

    assert begun == ["a", "b", "b"]
    assert [len(each.outcomes["alone"]) for each in rows] == [1, 1]
    assert [len(each.others) for each in rows] == [1, 1]
    assert list(tmp_path.iterdir()) == []


async def test_a_workload_that_takes_too_long_is_ended_and_the_next_one_runs(
    fake: InstantSession, tmp_path: Path
) -> None:
    sizes = Sizes(cell_seconds=0.05)

    outcomes = await measure(
        FAKE, sizes, tmp_path, said, [workload("slow", ENDLESS_S), workload("quick", 0)]
    )

    assert outcomes["slow"].fault == "ended after 0.05 s"
    assert outcomes["quick"].values == {"quick": 1.0}


async def test_a_workload_that_fails_says_why_and_the_next_one_runs(
    fake: InstantSession, tmp_path: Path
) -> None:
    failing = workload("bad", OSError("connection lost"))

    outcomes = await measure(FAKE, Sizes(), tmp_path, said, [failing, workload("good", 0)])

    assert outcomes["bad"].fault == "OSError: connection lost"
    assert outcomes["good"].fault is None


async def test_a_workload_that_a_system_lacks_does_not_run(
    fake: InstantSession, tmp_path: Path
) -> None:
    lacking = replace(FAKE, lacks={"slow": "it has no such call"})

    assert await measure(lacking, Sizes(), tmp_path, said, [workload("slow", ENDLESS_S)]) == {}


async def test_a_system_that_does_not_start_has_its_fault_in_every_cell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @asynccontextmanager
    async def running(folder: Path) -> AsyncIterator[Session]:
        raise ServerError("n1 ended with code 1:\nthe log")
        yield InstantSession()  # type: ignore[unreachable]  # makes it a generator

    monkeypatch.setitem(sys.modules, FAKE.module, SimpleNamespace(running=running))

    outcomes = await measure(FAKE, Sizes(), tmp_path, said, [workload("a", 0), workload("b", 0)])

    faults = {each.fault for each in outcomes.values()}
    assert len(outcomes) == 2
    assert faults == {"the system failed: ServerError: n1 ended with code 1:"}


async def test_every_workload_measures_what_its_columns_show(
    fake: InstantSession, tmp_path: Path
) -> None:
    sizes = Sizes(seconds=0.02, done_seconds=0.05, drain_tasks=1_000)

    outcomes = await measure(FAKE, sizes, tmp_path, said)

    for each in WORKLOADS:
        assert outcomes[each.name].fault is None
        assert set(outcomes[each.name].values) == {metric.key for metric in each.metrics}
    assert set(fake.calls) == {1, 100}


async def test_a_drain_fails_if_not_every_confirmed_task_waits_for_the_worker() -> None:
    session = InstantSession()
    session.tasks["drained"] = -100

    with pytest.raises(AssertionError, match="900 tasks wait, not the 1,000"):
        await drain(session, Sizes(drain_tasks=1_000))


async def test_callers_submit_until_the_first_of_both_bounds() -> None:
    session = InstantSession()

    by_count = await session.repeat(Calls(queue="q", callers=3, for_s=ENDLESS_S, calls_max=10))
    by_time = await session.repeat(Calls(queue="q", callers=3, for_s=0.02))

    assert len(by_count.calls.values) == 10
    assert by_time.took_s >= 0.02
    assert session.tasks["q"] == 10 + len(by_time.calls.values)


async def test_threads_submit_exactly_the_tasks_that_are_asked_for() -> None:
    session = ThreadsSession()

    await session.fill("q", 1_000, within_s=PATIENCE_S)
    samples = await session.by_the_clock(rate=1_000, for_s=0.05)
    session.close()

    assert session.submitted.count("q") == 1_000
    assert len(samples.values) == session.submitted.count("done") == 50


def test_servers_and_what_they_started_end_if_the_benchmark_fails(tmp_path: Path) -> None:
    child = "import time; print('up', flush=True); time.sleep(1e4)"
    # Both ignore SIGTERM, as a server that hangs does; the child has another parent's pid.
    parent = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f" subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    )
    found: list[psutil.Process] = []

    def fail() -> None:
        with Servers(tmp_path) as servers:
            server = servers.start("stubborn", [sys.executable, "-c", parent])
            deadline_s = time.monotonic() + PATIENCE_S
            while "up" not in server.log():
                assert time.monotonic() < deadline_s, server.log()
                time.sleep(0.01)
            own = psutil.Process(server.process.pid)
            found.extend([own, *own.children()])
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.peers.processes.END_S", 0.1)
        with pytest.raises(KeyboardInterrupt):
            fail()

    assert len(found) == 2
    _, alive = psutil.wait_procs(found, timeout=PATIENCE_S)
    assert alive == []


def test_a_server_that_ends_at_once_is_an_error_with_its_log(tmp_path: Path) -> None:
    with Servers(tmp_path) as servers:
        server = servers.start("short", [sys.executable, "-c", "exit('no such option')"])

        with pytest.raises(ServerError, match="no such option"):
            servers.await_address(server, "127.0.0.1:1", PATIENCE_S)


def test_the_table_shows_the_median_the_spread_and_why_there_is_no_figure() -> None:
    text = StringIO()

    table.print_table(Console(file=text, width=300), MACHINE, canned_rows())

    shown = text.getvalue()
    assert "1,000" in shown
    assert "(900 to 1,200)" in shown
    assert "skipped, no fake-server" in shown
    assert "1: it has no worker" in shown
    assert "2: broken, round 2: ended after 60 s" in shown


def test_the_markdown_says_what_the_table_says(tmp_path: Path) -> None:
    table.write_markdown(tmp_path / "table.md", MACHINE, canned_rows())

    lines = (tmp_path / "table.md").read_text().splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    columns = len(list(table.metrics())) + 1
    assert lines[0] == "`python -m benchmarks.peers`, today"
    assert "- cpu: a fast one" in lines
    assert "- rounds: 3" in lines
    assert "| 1,000 (900 to 1,200) |" in "\n".join(lines)
    assert "| 50.0 <sup>2</sup> |" in "\n".join(lines)
    assert rows["absent: skipped, no fake-server"].count(" - ") == columns - 1
    assert "1. it has no worker" in lines
    assert "2. broken, round 2: ended after 60 s" in lines


def test_the_json_keeps_the_values_of_every_round(tmp_path: Path) -> None:
    table.write_json(tmp_path / "table.json", MACHINE, Sizes(), canned_rows())

    written = json.loads((tmp_path / "table.json").read_text())
    steady, broken, absent = written["systems"]
    assert written["machine"] == MACHINE
    assert written["sizes"]["drain_tasks"] == Sizes().drain_tasks
    assert steady["cells"]["in_flight"]["rounds"] == [900, 1_200, 1_000]
    assert steady["cells"]["in_flight"]["spread"]["median"] == 1_000
    assert broken["cells"]["in_flight"]["rounds"] == [50, None]
    assert absent["skipped"] == "no fake-server"
    assert absent["cells"]["in_flight"]["spread"] is None


def test_what_etcd_is_sent_reads_back_as_protobuf() -> None:
    key, value = b"k" * 300, b"v"

    assert dict(etcd.numbers(etcd.put(key, value))) == {1: key, 2: value}
    request = etcd.transaction([etcd.put(key, value)] * 2)
    operations = [each for number, each in etcd.numbers(request) if number == 2]
    assert len(operations) == 2
    assert isinstance(operations[0], bytes)
    assert dict(etcd.numbers(operations[0])) == {2: etcd.put(key, value)}
    assert list(etcd.numbers(etcd.varint(4 << 3) + etcd.varint(300))) == [(4, 300)]


@pytest.mark.cluster
@pytest.mark.slow
def test_the_command_measures_tq_itself(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "benchmarks.peers", "tq", "--rounds", "1", "--tasks", "5000"),
        *("--seconds", "0.2", "--done-seconds", "0.2", "--cell-seconds", str(PATIENCE_S)),
        *("--json", str(tmp_path / "out.json"), "--data-dir", str(tmp_path)),
    ]

    answer = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * PATIENCE_S,
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
    client, stubs = json.loads((tmp_path / "out.json").read_text())["systems"]
    assert all(cell["spread"]["median"] > 0 for cell in client["cells"].values())
    assert stubs["cells"]["in_flight"]["spread"]["median"] > 0
    assert stubs["cells"]["drain"]["spread"] is None
    assert stubs["cells"]["drain"]["remarks"] == ["submits only"]
    assert list(tmp_path.glob("tq-*")) == []
