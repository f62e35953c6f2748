"""The systemd units start what exists, and leave it the time that it takes to stop."""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tq_cluster import __main__ as cluster_command
from tq_worker.cli import command as worker_command
from tq_worker.cli.config import WorkerConfig
from tq_worker.wire import exits as worker_exits

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
BIN = "/opt/tq/bin/"
Unit = dict[str, list[str]]


def load(name: str) -> Unit:
    """A unit's settings, each as the list of what is given for it."""
    settings: Unit = defaultdict(list)
    for line in (UNITS / name).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            settings[key].append(value)
    return settings


def test_the_broker_unit_runs_commands_that_exist() -> None:
    unit = load("tq-cluster@.service")

    for command in unit["ExecStartPre"] + unit["ExecStart"]:
        program, subcommand, *flags = shlex.split(command)
        assert program == f"{BIN}tq-cluster"
        shown = CliRunner().invoke(cluster_command.app, [subcommand, "--help"])
        assert shown.exit_code == 0, command
        assert flags == ["--config", "/etc/tq/%i.yaml"]
        assert "--config" in shown.output


def test_the_worker_unit_gives_a_command_line_that_the_worker_takes() -> None:
    [command] = load("tq-worker@.service")["ExecStart"]
    environment = {
        "${TQ_HANDLERS}": "tq_worker.handlers",
        "${TQ_QUEUES}": "photos",
        "$TQ_WORKER_OPTIONS": "--concurrency 20 --processes 2",
    }

    for name, value in environment.items():
        assert name in command
        command = command.replace(name, value)
    program, subcommand, *flags = shlex.split(command)

    assert (program, subcommand) == (f"{BIN}tq-worker", "run")
    taken = CliRunner().invoke(worker_command.app, ["check-config", *flags])
    assert json.loads(taken.stdout)["queues"] == ["photos"]
    assert json.loads(taken.stdout)["concurrency"] == 20


def test_what_no_restart_cures_is_not_restarted() -> None:
    broker, worker = load("tq-cluster@.service"), load("tq-worker@.service")

    assert broker["RestartPreventExitStatus"] == [str(cluster_command.EXIT_REFUSED)]
    assert worker["RestartPreventExitStatus"] == [str(worker_exits.USAGE)]


def test_a_worker_is_given_longer_to_stop_than_its_tasks_have_to_finish() -> None:
    drain_s = WorkerConfig(handlers=("a",), queues=("b",)).drain_timeout
    compose = (ROOT / "docker-compose.cluster.yml").read_text()
    graces = [int(grace) for grace in re.findall(r"stop_grace_period: (\d+)s", compose)]

    [stop_s] = load("tq-worker@.service")["TimeoutStopSec"]

    assert int(stop_s) > drain_s
    assert max(graces) > drain_s


@pytest.mark.parametrize("name", sorted(path.name for path in UNITS.glob("*.service")))
def test_a_unit_runs_as_nobody_that_matters(name: str) -> None:
    unit = load(name)

    assert unit["User"] == ["tq"]
    assert unit["NoNewPrivileges"] == ["yes"]
    assert unit["CapabilityBoundingSet"] == [""]
