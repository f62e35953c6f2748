"""The brokers of docker-compose.cluster.yml; faults go through the Docker engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos.cluster.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker-compose.cluster.yml"
PROJECT = "tq-chaos"
IMAGE = "tq:local"
ADDRESSES = {"n1": "127.0.0.1:7001", "n2": "127.0.0.1:7002", "n3": "127.0.0.1:7003"}
COMMAND_S = 180.0
TAIL = "40"
COMPLAINT = re.compile(r'^Traceback|"level": ?"(error|critical)"')


class DockerError(RuntimeError):
    """A Docker command failed."""


def missing() -> str | None:
    """Say why no containers can be started here; None when they can."""
    if shutil.which("docker") is None:
        return "there is no `docker`"
    try:
        run("docker", "info")
        run("docker", "compose", "version")
    except DockerError as error:
        return f"no Docker engine with compose answers: {error}"
    try:
        run("docker", "image", "inspect", os.environ.get("TQ_IMAGE", IMAGE))
    except DockerError:
        return f"there is no image {IMAGE}: docker build -t {IMAGE} ."
    return None


def run(*command: str) -> str:
    """Run a Docker command to its end, and return its output."""
    done = subprocess.run(  # noqa: S603  # our own command
        command,
        cwd=ROOT,
        env={**os.environ, "COMPOSE_PROJECT_NAME": PROJECT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    if done.returncode != 0:
        raise DockerError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def compose(*arguments: str) -> str:
    """Run compose on the file of the cluster."""
    return run("docker", "compose", "--file", str(COMPOSE_FILE), *arguments)


class ContainerNode:
    """One broker's container."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.address = ADDRESSES[node_id]
        self.container_id = ""
        self.running = False
        self.paused = False

    def exited(self) -> int | None:
        """The exit code if it ended by itself; a restart by the engine counts as an end, too."""
        if not self.running:
            return None
        [inspected] = json.loads(run("docker", "inspect", self.container_id))
        state = inspected["State"]
        if state["Running"] and not inspected["RestartCount"]:
            return None
        return int(state["ExitCode"])

    def log(self, *options: str) -> str:
        """Standard output and error."""
        if not self.container_id:
            return "never started"
        done = subprocess.run(  # noqa: S603  # our own command
            ["docker", "logs", *options, self.container_id],  # noqa: S607  # as the user finds it
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        return done.stdout

    def log_tail(self) -> str:
        """The last lines."""
        return f"--- {self.node_id}: last lines of its log\n{self.log('--tail', TAIL)}"

    def complaints(self) -> list[str]:
        """Log lines that are errors of its own."""
        return [line for line in self.log().splitlines() if COMPLAINT.search(line)]


class ContainerCluster(Cluster):
    """Three brokers under a project name of the suite's own."""

    def __init__(self) -> None:
        super().__init__()
        self._nodes = {name: ContainerNode(name) for name in ADDRESSES}

    @property
    def nodes(self) -> Mapping[str, ContainerNode]:
        """The containers."""
        return self._nodes

    async def start(self, within_s: float = 60) -> None:
        """Start the containers and wait until the cluster has a leader."""
        await asyncio.to_thread(compose, "up", "--detach", "--no-build", *self._nodes)
        for name, node in self._nodes.items():
            [node.container_id] = compose("ps", "--all", "--quiet", name).split()
            node.running = True
        await self.await_leader(within_s)

    async def close(self) -> None:
        """Remove containers, volumes and the network."""
        await asyncio.to_thread(compose, "down", "--volumes", "--timeout", "5")
        for node in self._nodes.values():
            node.running = False
        await super().close()

    async def crash(self, *node_ids: str) -> None:
        """Kill the containers' processes."""
        running = [name for name in node_ids if self._nodes[name].running]
        await self._docker("kill", "--signal", "KILL", nodes=running)
        for node_id in running:
            self._nodes[node_id].running = self._nodes[node_id].paused = False

    async def freeze(self, *node_ids: str) -> None:
        """Pause the containers with the freezer cgroup."""
        running = [name for name in node_ids if self._nodes[name].running]
        await self._docker("pause", nodes=running)
        for node_id in running:
            self._nodes[node_id].paused = True

    async def thaw(self, *node_ids: str) -> None:
        paused = [name for name in node_ids if self._nodes[name].paused]
        await self._docker("unpause", nodes=paused)
        for node_id in paused:
            self._nodes[node_id].paused = False

    async def revive(self, *node_ids: str) -> None:
        down = [name for name in node_ids if not self._nodes[name].running]
        await self._docker("start", nodes=down)
        for node_id in down:
            self._nodes[node_id].running = True

    async def shut_down(self, node_id: str) -> int | None:
        node = self._nodes[node_id]
        node.running = False
        await self._docker("stop", nodes=(node_id,))
        [inspected] = json.loads(
            await asyncio.to_thread(run, "docker", "inspect", node.container_id)
        )
        return int(inspected["State"]["ExitCode"])

    async def _docker(self, *command: str, nodes: Sequence[str]) -> None:
        containers = [self._nodes[node_id].container_id for node_id in nodes]
        if containers:
            await asyncio.to_thread(run, "docker", *command, *containers)
