"""docker-compose.cluster.yml, run by the installed compose command."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tq.v1.cluster_service_pb2 import GetClusterStatusResponse, NodeStatus
from tq_client import AsyncClient, TqError

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker-compose.cluster.yml"
PROJECT = "tq-compose-test"
METRICS = ("n1:7201", "n2:7201", "n3:7201")
"""As in deploy/prometheus/prometheus.yml, which another test compares with the compose file."""
NODES = {"n1": "127.0.0.1:7001", "n2": "127.0.0.1:7002", "n3": "127.0.0.1:7003"}
WORKERS = ("worker1", "worker2")
COMMAND_S = 180.0
POLL_S = 0.2

FactT = TypeVar("FactT")


def compose_commands() -> list[list[str]]:
    """The installed compose commands: the plugin, and docker-compose 1.29 if it is present."""
    old = [["docker-compose"]] if shutil.which("docker-compose") else []
    return [["docker", "compose"], *old]


def run(command: Sequence[str]) -> str:
    """Run a command to its end and return its output; AssertionError if it failed."""
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "COMPOSE_PROJECT_NAME": PROJECT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert finished.returncode == 0, (
        f"{' '.join(command)} ended with {finished.returncode}:\n{finished.stdout}{finished.stderr}"
    )
    return finished.stdout


class Stack:
    """The containers of the compose file under a project name of their own."""

    def compose(self, *arguments: str) -> str:
        return run(["docker", "compose", "--file", str(COMPOSE_FILE), *arguments])

    def up(self) -> None:
        """Start everything and wait until every health check passes."""
        self.compose("up", "--detach", "--wait", "--no-build")

    def down(self) -> None:
        """Remove containers, volumes and the network."""
        self.compose("down", "--volumes", "--timeout", "5")

    def container(self, service: str) -> str:
        """The id of a service's container, which has another name under each compose."""
        [container_id] = self.compose("ps", "--all", "--quiet", service).split()
        return container_id

    def kill(self, service: str) -> None:
        """SIGKILL: nothing is flushed."""
        run(["docker", "kill", "--signal", "KILL", self.container(service)])

    def start(self, service: str) -> None:
        run(["docker", "start", self.container(service)])

    def pause(self, service: str) -> None:
        """Freeze its processes: it is silent, but every connection stays open."""
        run(["docker", "pause", self.container(service)])

    def unpause(self, service: str) -> None:
        run(["docker", "unpause", self.container(service)])

    def state(self, service: str) -> dict[str, Any]:
        """Docker's state of a container: Status, ExitCode, Health and more."""
        [inspected] = json.loads(run(["docker", "inspect", self.container(service)]))
        state: dict[str, Any] = inspected["State"]
        return state

    def metrics(self, target: str) -> str:
        """The metrics at ``target`` as Prometheus reads them, inside the containers' network."""
        program = f"import urllib.request as r; print(r.urlopen('http://{target}/metrics').read())"
        return self.compose("exec", "-T", WORKERS[0], "python", "-c", program)

    def left_behind(self) -> list[str]:
        """What exists under the project's name: containers, volumes, networks."""
        label = f"label=com.docker.compose.project={PROJECT}"
        return [
            f"{kind} {name}"
            for kind, command in (
                ("container", ["docker", "ps", "--all"]),
                ("volume", ["docker", "volume", "ls"]),
                ("network", ["docker", "network", "ls"]),
            )
            for name in run([*command, "--quiet", "--filter", label]).split()
        ]

    def describe(self) -> str:
        """The containers and the ends of their logs."""
        return self.compose("ps", "--all") + self.compose("logs", "--no-color", "--tail", "30")


async def await_fact(
    what: str,
    probe: Callable[[], Awaitable[FactT | None]],
    within_s: float,
    seen: Callable[[], str],
) -> FactT:
    """Call ``probe`` until it has an answer; the error says what was seen instead."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s
    while True:
        fact = await probe()
        if fact is not None:
            return fact
        assert loop.time() < deadline_s, f"waited {within_s} s for {what}; seen: {seen()}"
        await asyncio.sleep(POLL_S)


class Watch:
    """The nodes' own status of the cluster, read at their published ports."""

    def __init__(self) -> None:
        self._last: dict[str, GetClusterStatusResponse | str] = {}

    async def await_leader(self, *, other_than: str = "", within_s: float = 30) -> NodeStatus:
        """Wait until a node says that it leads, and that a majority is reachable."""

        async def leader() -> NodeStatus | None:
            await self._ask_all()
            for status in self._statuses():
                reachable = [node for node in status.nodes if node.reachable]
                for node in reachable:
                    leads = node.role == NodeStatus.ROLE_LEADER and node.term == status.term
                    if leads and node.node_id != other_than and 2 * len(reachable) > len(NODES):
                        return node
            return None

        return await await_fact("a leader", leader, within_s, self.describe)

    async def await_whole(self, *, within_s: float = 60) -> NodeStatus:
        """Wait until every node reaches every other, all in one term, none behind the leader."""

        async def whole() -> NodeStatus | None:
            await self._ask_all()
            statuses = self._statuses()
            agreed = {(status.leader_id, status.term) for status in statuses}
            nodes = [node for status in statuses for node in status.nodes]
            if len(statuses) < len(NODES) or len(agreed) > 1 or not statuses[0].leader_id:
                return None
            if not all(node.reachable and not node.lag_entries for node in nodes):
                return None
            return next(node for node in nodes if node.node_id == statuses[0].leader_id)

        return await await_fact("a whole cluster", whole, within_s, self.describe)

    def describe(self) -> str:
        """Each node's last status."""
        return "\n".join(f"--- {node_id}: {answer}" for node_id, answer in self._last.items())

    def _statuses(self) -> list[GetClusterStatusResponse]:
        return [each for each in self._last.values() if isinstance(each, GetClusterStatusResponse)]

    async def _ask_all(self) -> None:
        answers = await asyncio.gather(*map(self._ask, NODES.values()))
        self._last = dict(zip(NODES, answers, strict=True))

    async def _ask(self, address: str) -> GetClusterStatusResponse | str:
        async with AsyncClient([address]) as client:
            try:
                return await client.cluster_status(timeout_s=2.0)
            except (TqError, TimeoutError) as error:
                return str(error)
