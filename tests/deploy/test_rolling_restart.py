"""deploy/rolling-restart, run as an operator runs it, on three broker processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chaos.cluster.processes import NodeStatus, ProcessCluster
from tq_client import AsyncClient

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "rolling-restart"
FAKE_ADMIN = Path(__file__).with_name("fake_admin.py")
ASK = Path(__file__).with_name("ask_for_restart.py")
SCRIPT_S = 120


class Host:
    """Restarts brokers when asked to, and notes how the cluster was just before."""

    def __init__(self, cluster: ProcessCluster) -> None:
        self.restarted: list[str] = []
        self.exit_codes: list[int | None] = []
        self.others_down: list[str] = []
        self.broken: str = ""
        """This broker is stopped and does not come back."""
        self._cluster = cluster
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def command(self) -> str:
        assert self._server is not None
        return f"{sys.executable} {ASK} {self._server.sockets[0].getsockname()[1]} {{node}}"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_id = (await reader.readline()).decode().strip()
        statuses = await self._cluster.statuses()
        for other, status in statuses.items():
            if not isinstance(status, NodeStatus):
                self.others_down.append(f"{other} while {node_id} was restarted: {status}")
        broker = self._cluster.brokers[node_id]
        self.exit_codes.append(await broker.stop())
        if node_id != self.broken:
            broker.start()
        self.restarted.append(node_id)
        writer.write(b"done\n")
        await writer.drain()
        writer.close()


@pytest_asyncio.fixture
async def host(cluster: ProcessCluster) -> AsyncIterator[Host]:
    host = Host(cluster)
    await host.listen()
    yield host
    await host.close()


async def rolling_restart(cluster: ProcessCluster, host: Host, *options: str) -> tuple[int, str]:
    """The script's exit code, and all that it printed."""
    arguments = ["--restart", host.command, "--address", ",".join(cluster.addresses)]
    script = await asyncio.create_subprocess_exec(
        *(sys.executable, str(SCRIPT), *arguments, *options),
        *("--admin", f"{sys.executable} -m tq_admin"),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(script.communicate(), SCRIPT_S)
    print(printed.decode())  # noqa: T201  # shown by pytest when the test failed
    assert script.returncode is not None
    return script.returncode, printed.decode()


class Submits:
    """Submits one task after the other until ``stop``; a submit that fails ends the test."""

    def __init__(self, client: AsyncClient) -> None:
        self.acknowledged: list[str] = []
        self._client = client
        self._enough = asyncio.Event()

    async def run(self) -> None:
        while not self._enough.is_set():
            self.acknowledged.append(await self._client.submit("restarts", "echo"))

    def stop(self) -> None:
        self._enough.set()


@pytest.mark.cluster
async def test_restarting_every_broker_in_turn_fails_no_call(
    cluster: ProcessCluster, host: Host
) -> None:
    before = await cluster.statuses()

    async with AsyncClient(cluster.addresses) as client:
        submits = Submits(client)
        submitting = asyncio.create_task(submits.run())
        code, printed = await rolling_restart(cluster, host)
        submits.stop()
        await submitting
        stats = await client.queue_stats("restarts")

    assert code == 0, printed
    assert sorted(host.restarted) == ["n1", "n2", "n3"]
    assert host.others_down == []
    assert host.exit_codes == [0, 0, 0]
    assert stats.pending == len(submits.acknowledged) > 0
    for node_id, status in (await cluster.statuses()).items():
        earlier = before[node_id]
        assert isinstance(status, NodeStatus), status
        assert isinstance(earlier, NodeStatus), earlier
        assert status.started_at.ToMilliseconds() > earlier.started_at.ToMilliseconds()


@pytest.mark.cluster
async def test_nothing_is_restarted_while_a_broker_is_missing(
    cluster: ProcessCluster, host: Host
) -> None:
    cluster.kill("n2")

    code, printed = await rolling_restart(cluster, host)

    assert code == 1
    assert host.restarted == []
    assert "nothing was touched: n2 cannot be reached" in printed


@pytest.mark.cluster
async def test_a_broker_that_does_not_come_back_stops_the_restart(
    cluster: ProcessCluster, host: Host
) -> None:
    # The first follower is the first to be restarted: no other one has to be back within 3 s.
    leader_id = next(
        node_id
        for node_id, status in (await cluster.statuses()).items()
        if isinstance(status, NodeStatus) and status.role == NodeStatus.ROLE_LEADER
    )
    host.broken = "n2" if leader_id == "n1" else "n1"

    code, printed = await rolling_restart(cluster, host, "--within", "3")

    assert code == 1
    assert host.restarted == [host.broken]
    assert f"given up at {host.broken}: after 3 s: {host.broken} cannot be reached" in printed


Change = Callable[[dict[str, Any]], None]


class Paper:
    """A cluster that is on paper only: three brokers, n1 leads."""

    def __init__(self, path: Path, change: Change) -> None:
        nodes = [
            {"node_id": f"n{number}", "address": f"10.0.0.{number}:7001", "role": "FOLLOWER"}
            | {"reachable": True, "unreachable_reason": "", "lag_entries": 0}
            | {"message": "", "started_at": "then"}
            for number in (1, 2, 3)
        ]
        status: dict[str, Any] = {"leader_id": "n1", "term": 1, "nodes": nodes}
        change(status)
        self._path = path
        path.write_text(json.dumps({"status": status, "done": []}))

    @property
    def done(self) -> list[str]:
        done: list[str] = json.loads(self._path.read_text())["done"]
        return done

    def restart(self, command: str = "") -> tuple[int, str]:
        """Run the script with this restart command, by default one that works."""
        admin = f"{sys.executable} {FAKE_ADMIN} {self._path}"
        arguments = ["--admin", admin, "--restart", command or f"{admin} restart {{node}}"]
        script = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments, "--within", "0.5"],
            capture_output=True,
            text=True,
            check=False,
        )
        return script.returncode, script.stdout + script.stderr


@pytest.mark.slow
def test_the_leader_comes_last_and_hands_over_first(tmp_path: Path) -> None:
    paper = Paper(tmp_path / "state.json", lambda status: None)

    code, printed = paper.restart()

    assert code == 0, printed
    assert paper.done == ["restart n2", "restart n3", "transfer-leadership n2", "restart n1"]


def _behind(status: dict[str, Any]) -> None:
    status["nodes"][2]["lag_entries"] = 101


def _stranger(status: dict[str, Any]) -> None:
    status["nodes"][2] |= {"role": "STRANGER", "message": "its disk is new"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_behind, "nothing was touched: n3 is 101 entries behind"),
        (_stranger, "nothing was touched: n3 takes no part, it is STRANGER: its disk is new"),
    ],
)
def test_nothing_is_restarted_while_a_broker_is_unwell(
    tmp_path: Path, change: Change, said: str
) -> None:
    paper = Paper(tmp_path / "state.json", change)

    code, printed = paper.restart()

    assert code == 1
    assert said in printed
    assert paper.done == []


@pytest.mark.slow
def test_a_command_that_restarts_nothing_is_found_out(tmp_path: Path) -> None:
    code, printed = Paper(tmp_path / "state.json", lambda status: None).restart("true")

    assert code == 1
    assert "given up at n2: after 0.5 s: it runs since then: the command did not" in printed
    assert "not restarted: n3, n1" in printed


def test_a_command_that_fails_stops_the_restart(tmp_path: Path) -> None:
    paper = Paper(tmp_path / "state.json", lambda status: None)

    code, printed = paper.restart("false {host}")

    assert code == 1
    assert "n2: false 10.0.0.2" in printed
    assert "given up at n2: the command ended with 1" in printed
    assert paper.done == []
