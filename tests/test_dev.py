"""The command tq-cluster dev: a cluster for development, in one directory."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import grpc.aio
import pytest

from tests.cluster.ports import free_base_port
from tests.patience import PATIENCE_S
from tests.service.fakes import Stubs
from tq.v1 import cluster_service_pb2
from tq_cluster import config, dev
from tq_cluster.errors import StartError
from tq_cluster.raft.secret import ClusterSecret
from tq_cluster.storage.lock import DirectoryLock

COMMAND = [sys.executable, "-m", "tq_cluster"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("TQ_")}


def test_dev_refuses_a_directory_that_holds_a_cluster_of_another_size(tmp_path: Path) -> None:
    for name in ("n1", "n2", "n3"):
        (tmp_path / name).mkdir()

    with pytest.raises(StartError, match=r"holds a cluster of n1, n2, n3, not of 5 nodes"):
        dev.prepare(tmp_path, 5, 7001)


def test_dev_writes_a_file_for_each_broker(tmp_path: Path) -> None:
    brokers = dev.prepare(tmp_path / "data", 3, 7001)

    assert [broker.api for broker in brokers] == [
        f"127.0.0.1:{port}" for port in (7001, 7002, 7003)
    ]
    loaded = config.load(brokers[2].config, {}, {})
    assert (loaded.node_id, loaded.listen_raft) == ("n3", "127.0.0.1:7103")


def test_dev_draws_one_secret_for_all_its_brokers_and_keeps_it(tmp_path: Path) -> None:
    files = [broker.config for broker in dev.prepare(tmp_path, 3, 7001)]
    [path] = {config.load(file, {}, {}).cluster_secret_file for file in files}
    assert path is not None
    drawn = path.read_bytes()

    dev.prepare(tmp_path, 3, 7001)

    assert path.read_bytes() == drawn
    assert ClusterSecret(path).keys == (drawn.strip(),)


def test_dev_says_of_a_cluster_of_one_that_it_is_meant(tmp_path: Path) -> None:
    [one] = dev.prepare(tmp_path / "one", 1, 7001)
    three = dev.prepare(tmp_path / "three", 3, 7001)

    assert config.load(one.config, {}, {}).single
    assert not any(config.load(broker.config, {}, {}).single for broker in three)


def test_dev_leaves_a_directory_alone_whose_brokers_run(tmp_path: Path) -> None:
    [broker] = dev.prepare(tmp_path, 1, 7001)
    before = broker.config.read_bytes()
    (tmp_path / "n1").mkdir()
    lock = DirectoryLock(tmp_path / "n1" / "node.lock")

    with pytest.raises(StartError, match=rf"n1 is in use by process {os.getpid()}"):
        dev.prepare(tmp_path, 1, 8001)
    assert broker.config.read_bytes() == before

    lock.release()
    [moved] = dev.prepare(tmp_path, 1, 8001)
    assert moved.config.read_bytes() != before


@pytest.mark.cluster
async def test_dev_runs_a_cluster_says_who_died_and_stops_all_on_ctrl_c(tmp_path: Path) -> None:
    base_port = free_base_port()
    addresses = [f"127.0.0.1:{base_port + number}" for number in range(3)]
    process = await asyncio.create_subprocess_exec(
        *[*COMMAND, "dev", "--data-dir", str(tmp_path / "data"), "--base-port", str(base_port)],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    lines: list[str] = []

    async def read_until(part: str) -> str:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            async for line in process.stdout:
                lines.append(line.decode())
                if part in lines[-1]:
                    return lines[-1]
        raise AssertionError("".join(lines))

    await read_until("leadership begins")
    async with grpc.aio.insecure_channel(addresses[0]) as channel:
        status = await Stubs(channel).cluster.GetClusterStatus(
            cluster_service_pb2.GetClusterStatusRequest(), timeout=PATIENCE_S
        )
    pid = int((tmp_path / "data" / "n3" / "node.lock").read_text())
    os.kill(pid, signal.SIGKILL)
    obituary = await read_until("was ended by SIGKILL")
    process.send_signal(signal.SIGINT)
    rest = await process.stdout.read()
    await process.wait()

    assert [each.address for each in status.nodes] == addresses
    assert any(f"TQ_ADDRESS={','.join(addresses)}" in line for line in lines)
    assert obituary.startswith("n3  | was ended by SIGKILL; the others go on")
    assert b"stopping all brokers" in rest
    for node_id in ("n1", "n2"):
        assert f"{node_id} info     stopped".encode() in rest
