"""What a worker says of itself: its metrics, and the usage in its heartbeats."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from chaos.cluster.ports import free_addresses
from tests.patience import PATIENCE_S
from tests.worker.conftest import ROOT, SAMPLES, SHIPPED, SOLO, Facts, StartWorker
from tests.worker.fake_broker import FakeBroker
from tq_worker.api.errors import UsageError

ALL = (SHIPPED, SAMPLES, SOLO)

Samples = Mapping[tuple[str, ...], float]


@pytest.fixture
def free_port() -> int:
    return int(free_addresses(1)[0].split(":")[1])


class Scraped:
    """One answer to Prometheus."""

    def __init__(self, text: str) -> None:
        self.names: dict[str, str] = {}
        self.samples: dict[tuple[str, ...], float] = {}
        for family in text_string_to_metric_families(text):
            name = family.name + ("_total" if family.type == "counter" else "")
            self.names[name] = family.type
            for sample in family.samples:
                labels = (value for _, value in sorted(sample.labels.items()))
                self.samples[sample.name, *labels] = sample.value


async def scrape(port: int) -> Scraped:
    def read() -> str:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S
        ) as answer:
            text: str = answer.read().decode()
            return text

    return Scraped(await asyncio.to_thread(read))


async def test_tasks_slots_processes_and_claims_are_counted(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, free_port: int
) -> None:
    await start_worker(ALL, metrics_listen=("127.0.0.1", free_port), tasks_max=100)
    await broker.until_ended(await broker.submit("echo", count=3))
    await broker.until_ended(await broker.submit("permanent"))
    await broker.until_ended(await broker.submit("solo-segfault", max_attempts=1))
    await broker.submit("until-file", facts.payload)
    await facts.until("started")

    seen = (await scrape(free_port)).samples

    assert seen["tq_worker_tasks_started_total", "q", "echo"] == 3
    assert seen["tq_worker_tasks_completed_total", "q", "echo"] == 3
    assert seen["tq_worker_handler_seconds_count", "q", "echo"] == 3
    assert seen["tq_worker_handler_seconds_bucket", "+Inf", "q", "echo"] == 3
    assert seen["tq_worker_tasks_failed_total", "q", "permanent"] == 1
    assert seen["tq_worker_tasks_failed_total", "q", "solo-segfault"] == 1
    assert seen["tq_worker_tasks_started_total", "q", "until-file"] == 1
    assert seen["tq_worker_handler_process_deaths_total",] == 1
    assert (
        seen["tq_worker_tasks_capacity", "shared"],
        seen["tq_worker_tasks_capacity", "process"],
    ) == (4, 1)
    assert seen["tq_worker_tasks_running", "shared"] == 1
    assert seen["tq_worker_tasks_held",] == 1
    assert seen["tq_worker_claims_total", "tasks"] >= 3
    assert seen["tq_worker_claim_silence_seconds",] < 30
    assert seen["tq_worker_memory_bytes",] > 10_000_000
    assert seen["tq_worker_cpu_seconds_total",] > 0


async def test_every_metric_is_in_the_documentation_and_no_other_is(
    broker: FakeBroker, start_worker: StartWorker, free_port: int
) -> None:
    await start_worker(metrics_listen=("127.0.0.1", free_port))
    await broker.until_ended(await broker.submit("echo"))

    served = set((await scrape(free_port)).names)

    page = (ROOT / "docs/worker.md").read_text()
    table = re.findall(r"^\| `(tq_worker_\w+)` \|", page, re.MULTILINE)
    assert sorted(table) == sorted(served)


async def test_a_port_that_is_taken_is_a_mistake_that_is_named(
    broker: FakeBroker, start_worker: StartWorker
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = await start_worker(metrics_listen=("127.0.0.1", port))
        with pytest.raises(UsageError, match=f"cannot be served at 127.0.0.1:{port}: Address"):
            await run.task


@pytest.mark.slow
async def test_a_heartbeat_says_what_the_worker_uses_though_it_holds_nothing(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts
) -> None:
    await start_worker(concurrency=3, lease_s=1.0)
    await broker.until(
        lambda: "w1" in broker.usage and broker.usage["w1"].memory_bytes > 10_000_000,
        "a heartbeat that says what is used",
    )
    assert (broker.usage["w1"].slots, broker.usage["w1"].slots_busy) == (3, 0)
    assert broker.usage["w1"].processes >= 2

    await broker.submit("until-file", facts.payload)

    await broker.until(lambda: broker.usage["w1"].slots_busy == 1, "a busy slot")


HOOKED = ("tests.worker.hooked_handlers",)


@pytest.mark.slow
async def test_what_handlers_count_is_added_up_over_all_processes_those_that_are_gone_included(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, free_port: int
) -> None:
    labels = {"facts": str(facts.path)}
    run = await start_worker(
        HOOKED, metrics_listen=("127.0.0.1", free_port), processes=2, tasks_max=3
    )
    await broker.until(lambda: len(run.pids()) == 3, "its processes")
    first = run.pids()
    await broker.until_ended(await broker.submit("hooked", labels=labels, count=20))
    await broker.until_ended(await broker.submit("hooked-async", labels=labels, count=20))
    await broker.until_ended(await broker.submit("hooked-solo", labels=labels, count=5))
    await broker.until(lambda: not any(map(psutil.pid_exists, first)), "the end of the first")

    seen = (await scrape(free_port)).samples

    assert seen["hooked_runs_total", "thread"] == 20
    assert seen["hooked_runs_total", "async"] == 20
    assert seen["hooked_runs_total", "process"] == 5
    assert seen["hooked_seconds_bucket", "1.0"] == 0
    assert seen["hooked_seconds_bucket", "10.0"] == 45
    assert seen["hooked_seconds_count",] == 45
    assert (await scrape(free_port)).samples["hooked_seconds_sum",] == 90
    files = list(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).iterdir())  # noqa: ASYNC240 - a few
    processes = len(run.worker._pool.everyone())
    assert len(files) <= 3 * (processes + 1)

    await run.leave()
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    assert not files[0].parent.exists()


async def test_a_program_that_has_set_up_the_librarys_own_mode_keeps_it(
    broker: FakeBroker,
    start_worker: StartWorker,
    facts: Facts,
    free_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(own))
    await start_worker(HOOKED, metrics_listen=("127.0.0.1", free_port))

    await broker.until_ended(await broker.submit("hooked", labels={"facts": str(facts.path)}))

    assert list(own.glob("counter_*.db"))
    assert "hooked_runs_total" not in (await scrape(free_port)).names


@pytest.mark.slow
async def test_a_file_that_a_killed_process_left_half_made_costs_nothing_but_itself(
    broker: FakeBroker, start_worker: StartWorker, facts: Facts, free_port: int
) -> None:
    await start_worker(HOOKED, metrics_listen=("127.0.0.1", free_port))
    await broker.until_ended(await broker.submit("hooked", labels={"facts": str(facts.path)}))
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    (folder / "counter_4194999.db").touch()  # a pid above all that there may be

    seen = (await scrape(free_port)).samples

    assert seen["hooked_runs_total", "thread"] == 1
    assert not (folder / "counter_4194999.db").exists()
    live = next(path for path in folder.glob("counter_*.db"))  # noqa: ASYNC240 - a few
    live.write_bytes(b"")
    assert "tq_worker_tasks_held" in (await scrape(free_port)).names
