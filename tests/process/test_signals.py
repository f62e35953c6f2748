"""What signals do to a broker, to `dev` and to a worker, and what they do not."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from chaos.cluster.broker import BrokerProcess
from chaos.cluster.processes import ProcessCluster
from tests.cluster.ports import free_base_port
from tests.service.fakes import until
from tq_process import signals

pytestmark = pytest.mark.cluster


def logged(broker: BrokerProcess) -> str:
    return broker.log_path.read_text()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[BrokerProcess]:
    """A cluster of one that leads."""
    cluster = ProcessCluster(tmp_path, nodes=1)
    try:
        await cluster.start()
        yield cluster.brokers["n1"]
        assert await cluster.brokers["n1"].stop() == 0, "it is still there, and stops in order"
        assert cluster.brokers["n1"].complaints() == []
    finally:
        await cluster.close()


async def test_signals_that_are_not_meant_for_a_broker_do_not_end_it(
    broker: BrokerProcess,
) -> None:
    numbers = list(signals.harmless())
    assert {signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM} < set(numbers)
    for number in numbers:
        broker._signal(number)  # type: ignore[arg-type]  # real-time signals have no name

    for name in ("SIGUSR1", "SIGUSR2", "SIGALRM"):
        line = f"signal passed over signal={name}"
        await until(lambda line=line: line in logged(broker), line)  # type: ignore[misc]


async def test_a_hangup_has_the_configuration_read_again_and_says_what_waits_for_a_restart(
    broker: BrokerProcess,
) -> None:
    config = yaml.safe_load(broker._config_path.read_text())
    config |= {"log": {"level": "debug", "format": "json"}, "metrics_listen": "127.0.0.1:1"}
    broker._config_path.write_text(yaml.safe_dump(config))

    broker._signal(signal.SIGHUP)

    await until(lambda: "configuration reloaded" in logged(broker), "it is read again")
    assert '"changed": "log.format, log.level"' in logged(broker)
    assert '"needs_restart": "metrics_listen"' in logged(broker)


async def test_a_hangup_over_a_file_with_mistakes_changes_nothing(broker: BrokerProcess) -> None:
    broker._config_path.write_text("node_id: [")

    broker._signal(signal.SIGHUP)

    await until(lambda: "configuration not reloaded" in logged(broker), "it is said")
    assert "not YAML" in logged(broker)


async def test_a_broker_says_where_all_its_tasks_and_threads_are_and_goes_on(
    broker: BrokerProcess,
) -> None:
    broker._signal(signal.SIGQUIT)

    await until(lambda: "stacks told" in logged(broker), "it has said all")
    said = logged(broker)
    assert re.search(r"stack of a thread thread_name=MainThread stack=.*base_events", said)
    assert re.search(
        r"stack of a task task=_serve tasks=1 stack=\".* Event\.wait < node\.py:\d+ _serve", said
    )


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT], ids=lambda each: each.name)
async def test_a_terminal_that_goes_away_leaves_no_broker_of_dev_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    options = ("--data-dir", str(tmp_path), "--nodes", "1", "--base-port", str(free_base_port()))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tq_cluster", "dev", *options),
        stdout=asyncio.subprocess.PIPE,
        # Also where the tests themselves were started to outlive their terminal.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout is not None
    said = ""
    while "ready" not in said:
        said = (await process.stdout.readline()).decode()
        assert said, "it has ended"

    process.send_signal(signal.SIGUSR1)
    process.send_signal(number)

    rest = (await process.stdout.read()).decode()
    await process.wait()
    assert "stopping all brokers" in rest
    assert "n1 info     stopped" in rest
