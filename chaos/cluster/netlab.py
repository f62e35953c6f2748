"""Nodes in network namespaces, and the faults of their network.

The tool that makes the namespaces is ``netlab``, named by ``TQ_NETLAB``. A run takes place inside
the lab's hub, so that its clients reach the nodes, and nothing else does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chaos.cluster.broker import NodeSetup
from chaos.cluster.processes import ProcessCluster

ROOT = Path(__file__).resolve().parents[2]
NETLAB_VARIABLE = "TQ_NETLAB"
NETLAB_DEFAULT = ROOT.parent / "shared" / "tools" / "netlab"
LAB_VARIABLE = "NETLAB"
"""The environment variable by which the tool distinguishes labs."""
INSIDE_VARIABLE = "CHAOS_INSIDE_LAB"
RAFT_PORT, API_PORT = 7101, 7001
COMMAND_S = 60.0


class NetlabError(RuntimeError):
    """The tool failed."""


def tool() -> Path:
    """Where the tool is, or would be."""
    return Path(os.environ.get(NETLAB_VARIABLE) or NETLAB_DEFAULT)


def missing() -> str | None:
    """Say why no lab can be made here; None when one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not tool().is_file():
        return f"there is no {tool()}: let {NETLAB_VARIABLE} name the netlab tool"
    if shutil.which("ip") is None and shutil.which("apt-get") is None:
        return "there is no `ip` (iproute2)"
    return None


def inside() -> bool:
    """Whether this process runs in a lab's hub."""
    return INSIDE_VARIABLE in os.environ


def run(*arguments: str) -> str:
    """Run the tool to its end, and return its output."""
    command = [sys.executable, str(tool()), *arguments]
    done = subprocess.run(  # noqa: S603  # our own command
        command, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    if done.returncode != 0:
        raise NetlabError(f"netlab {' '.join(arguments)}: {done.stderr.strip() or done.stdout}")
    return done.stdout


@contextmanager
def lab(nodes: int) -> Iterator[list[str]]:
    """Make a lab and take it down; yields the command prefix that runs a command in its hub."""
    name = f"chaos{os.getpid() % 100_000}"
    os.environ[LAB_VARIABLE] = name
    try:
        run("create", str(nodes))
        environment = ("env", f"{LAB_VARIABLE}={name}", f"{INSIDE_VARIABLE}=1")
        yield [sys.executable, str(tool()), "exec", "hub", *environment]
    finally:
        run("delete")
        del os.environ[LAB_VARIABLE]


class Network:
    """The network between the nodes n1, n2, ... and its faults, which add up until ``heal``."""

    async def partition(
        self, some: Sequence[str], others: Sequence[str], *, one_way: bool = False
    ) -> None:
        """Drop packets between the two sides; one way: only from the first to the second."""
        flag = ("--oneway",) if one_way else ()
        await self._run("partition", _hosts(some), _hosts(others), *flag)

    async def isolate(self, nodes: Sequence[str]) -> None:
        """Cut these off from all others; clients still reach them."""
        await self._run("isolate", _hosts(nodes))

    async def lose(self, nodes: Sequence[str], percent: float) -> None:
        """Lose a part of the packets that these send."""
        await self._run("loss", _hosts(nodes), f"{percent:g}")

    async def delay(
        self, nodes: Sequence[str], ms: float, jitter_ms: float = 0, *, to: Sequence[str] = ()
    ) -> None:
        """Delay what these nodes send; with a jitter packets arrive out of order."""
        only = ("--to", _hosts(to)) if to else ()
        await self._run("delay", _hosts(nodes), f"{ms:g}", f"{jitter_ms:g}", *only)

    async def narrow(self, nodes: Sequence[str], kbit: int) -> None:
        """Limit what these nodes send to ``kbit`` a second."""
        await self._run("rate", _hosts(nodes), str(kbit))

    async def heal(self) -> None:
        """Remove every fault."""
        await self._run("heal")

    async def _run(self, *arguments: str) -> None:
        await asyncio.to_thread(run, *arguments)


class NetlabCluster(ProcessCluster):
    """Brokers each in a network namespace of its own."""

    def __init__(
        self, folder: Path, *, nodes: int, setup: Callable[[str], NodeSetup] | None = None
    ) -> None:
        addresses = dict(line.split() for line in run("addr").splitlines())
        members = {
            f"n{number}": {
                "raft": f"{addresses[f'node{number}']}:{RAFT_PORT}",
                "api": f"{addresses[f'node{number}']}:{API_PORT}",
            }
            for number in range(1, nodes + 1)
        }
        enter = (sys.executable, str(tool()), "exec")

        def placed(node_id: str) -> NodeSetup:
            """Enter the namespace first: a fault's own wrapper runs inside it."""
            asked = setup(node_id) if setup else NodeSetup()
            return asked.with_(NodeSetup(wrapper=(*enter, _host(node_id))))

        super().__init__(folder, members=members, setup=placed)
        self.network = Network()


def _host(node_id: str) -> str:
    """The tool's name of a node: node1 for n1."""
    return node_id.removeprefix("n")


def _hosts(names: Sequence[str]) -> str:
    return ",".join(name if name == "hub" else _host(name) for name in names)
