"""For every fault of the cluster, a command says in a line what is wrong and what to try next."""

from __future__ import annotations

import re

import pytest

from chaos.cluster.processes import ProcessCluster
from tests.admin.conftest import Admin
from tests.admin.test_documented import commands
from tests.admin.test_real_cluster import admin as admin_of
from tests.patience import PATIENCE_S
from tq_admin.failures import ExitCode

COMMANDS = (
    "submit q t",
    "submit q t --wait",
    "status a",
    "list",
    "cancel a b",
    "retry a",
    "purge q --yes",
    "queues list",
    "queues show q",
    "queues configure q --ordering aging",
    "queues pause q",
    "queues resume q",
    "queues delete q",
    "queue-depth",
    "stats --interval 1ms",
    "workers",
    "dead-letters list",
    "dead-letters groups",
    "dead-letters show a",
    "dead-letters redrive a",
    "dead-letters redrive --queue q",
    "dead-letters redrive --queue q --type t --dry-run",
    "dead-letters redrive --type t",
    "dead-letters delete a --yes",
    "dead-letters delete --queue q --yes",
    "dead-letters delete --queue q --error e --yes",
    "cluster-status",
    "cluster-status --wide",
    "server-info",
    "transfer-leadership",
    "replace-node n2 --yes",
    "backup no-such-folder/file",
    "verify",
)
"""Every command, with enough to be one that could succeed."""
ELSEWHERE = {"monitor"}
"""Wants a terminal: test_monitor.py has it, with a cluster that says nothing, too."""
WATCHABLE = ("status a", "list", "queues list", "queue-depth", "workers", "cluster-status")
SOON = ("--timeout", "150ms")


def expect_a_line_and_advice(command: str, code: int, stderr: str) -> None:
    """Exit code 3, one line of what is wrong for each thing tried, and one of what to try next."""
    lines = stderr.splitlines()
    assert code == ExitCode.UNREACHABLE, (command, stderr)
    assert all(line.startswith("tq-admin: ") for line in lines[:-1]), (command, stderr)
    assert re.search("tq-admin|tq-cluster|look before", lines[-1]), (command, stderr)
    assert "internal error" not in stderr, (command, stderr)


def test_every_command_is_tried_in_every_fault() -> None:
    tried = {
        name for name in commands() if any(f"{one} ".startswith(f"{name} ") for one in COMMANDS)
    }

    assert tried | ELSEWHERE == commands()


@pytest.mark.parametrize("command", COMMANDS)
def test_where_nobody_is_every_command_says_so(admin: Admin, nowhere: str, command: str) -> None:
    ran = admin(*command.split(), to=nowhere)

    expect_a_line_and_advice(command, ran.code, ran.stderr)
    assert ran.stdout == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_where_one_accepts_and_says_nothing_every_command_ends_in_its_time(
    admin: Admin, silent: str, command: str
) -> None:
    ran = admin(*command.split(), *SOON, to=silent)

    expect_a_line_and_advice(command, ran.code, ran.stderr)


@pytest.mark.parametrize("command", WATCHABLE)
def test_what_is_watched_goes_on_and_says_what_is_wrong(
    admin: Admin, silent: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_after_two(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 1:
            raise KeyboardInterrupt

    waits: list[float] = []
    monkeypatch.setattr("tq_admin.watch.time.sleep", stop_after_two)

    ran = admin(*command.split(), *SOON, "--watch", "0.2", "-o", "json", to=silent)

    assert ran.code == ExitCode.OK
    assert [line.startswith("tq-admin: ") for line in ran.stderr.splitlines()] == [True, True]


@pytest.mark.cluster
async def test_a_majority_that_is_gone_and_a_leader_that_is_stopped_are_said_in_a_line(
    cluster: ProcessCluster,
) -> None:
    leader = await cluster.await_leader(within_s=PATIENCE_S)
    await admin_of(cluster, "submit", "q", "t", "--id", "a")
    stopped = cluster.brokers[leader.node_id].address

    cluster.pause(leader.node_id)
    for command in ("submit q t", "status a", "list", "queues pause q", "cluster-status"):
        ran = await admin_of(cluster, *command.split())
        assert ran.code == ExitCode.OK, (command, ran.stderr)
    for command in ("submit q t", "cluster-status", "transfer-leadership"):
        ran = await admin_of(cluster, *command.split(), *SOON, "--address", stopped)
        expect_a_line_and_advice(command, ran.code, ran.stderr)

    cluster.kill(leader.node_id, next(name for name in cluster.brokers if name != leader.node_id))
    for command in COMMANDS:
        ran = await admin_of(cluster, *command.split(), *SOON)
        if command.startswith("backup") and ran.code == ExitCode.FAILED:
            # It needs no majority, and has come as far as the file.
            assert "no-such-folder/file cannot be written" in ran.stderr
            continue
        if command == "server-info" and ran.code == ExitCode.OK:
            # The broker that is left answers by itself.
            assert "cluster version" in ran.stdout
            continue
        expect_a_line_and_advice(command, ran.code, ran.stderr)
