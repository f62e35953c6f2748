"""What the harness says when a cluster does not do what is waited for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from chaos.cluster.ports import HeldPorts, free_addresses
from chaos.cluster.processes import FactMissingError, ProcessCluster
from tests.patience import PATIENCE_S

SLEEPS = ("-c", "import sys, time; print('up, and silent', flush=True); time.sleep(600)")
ENDS = ("-c", "print('no such disk', flush=True); raise SystemExit(3)")


@pytest.mark.slow
async def test_a_leader_that_does_not_come_is_told_by_what_was_seen(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path, launcher=SLEEPS)

    with pytest.raises(FactMissingError, match="a leader that a majority agrees on") as caught:
        await cluster.start(within_s=2)
    await cluster.close()

    told = str(caught.value)
    assert "n1: no answer: UNAVAILABLE" in told
    assert "n3: last lines of" in told
    assert "up, and silent" in told


async def test_a_broker_that_ends_by_itself_ends_the_wait_with_its_log(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path, launcher=ENDS)

    with pytest.raises(FactMissingError, match="ended by itself with code 3") as caught:
        await cluster.start(within_s=PATIENCE_S)
    await cluster.close()

    assert "no such disk" in str(caught.value)


async def test_a_killed_and_a_paused_broker_are_told_apart(tmp_path: Path) -> None:
    cluster = ProcessCluster(tmp_path, launcher=SLEEPS)
    for broker in cluster.brokers.values():
        broker.start()

    cluster.kill("n1")
    cluster.pause("n2")
    statuses = await cluster.statuses()
    await cluster.close()

    assert statuses["n1"] == "down"
    assert statuses["n2"] == "paused"
    assert all(broker.pid is None for broker in cluster.brokers.values())


def test_free_addresses_are_different_and_out_of_reach_of_outgoing_connections() -> None:
    addresses = free_addresses(20)

    ports = [int(address.rpartition(":")[2]) for address in addresses]
    assert len(set(ports)) == 20
    assert max(ports) < 32_768


def test_a_port_that_a_cluster_holds_is_nobody_elses_and_its_own_brokers() -> None:
    held = HeldPorts(1)
    host, _, port = held.addresses[0].rpartition(":")

    with socket.socket() as another, pytest.raises(OSError, match="in use"):
        another.bind((host, int(port)))
    with socket.create_server((host, int(port))) as ours:
        listening = ours.getsockname()
    held.give_back()

    assert listening == (host, int(port))
