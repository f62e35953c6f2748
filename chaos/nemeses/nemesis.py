"""The interface of the faults that the suite injects: see ``Nemesis``.

A nemesis is a module in ``chaos/nemeses``; the scenarios that use it are in ``chaos/scenarios``
and ``chaos/workloads``.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from chaos.cluster.broker import NodeSetup
from chaos.context import Injected

if TYPE_CHECKING:
    from chaos.context import RunContext


class Transport(enum.StrEnum):
    """What a cluster's nodes are."""

    PROCESSES = "processes"
    """On loopback."""
    NETLAB = "netlab"
    """In network namespaces of their own, joined by a bridge."""
    CONTAINERS = "containers"
    """From docker-compose.cluster.yml."""
    OUTSIDE = "outside"
    """An existing cluster: the suite can send load and check it, but not inject faults."""


class Nemesis:
    """One way to break a cluster and to heal it.

    In a run, in this order: ``needs``; ``prepare`` and ``setup`` before any node starts; ``front``
    before any client connects; then ``inject`` and ``heal`` in turn, as often as the scenario has
    time for; ``cleanup`` once the nodes are gone, in any case.

    Choices are drawn from ``draw`` alone, so that a seed repeats them.
    """

    name: ClassVar[str]
    faults: ClassVar[tuple[str, ...]]
    """The ids of the faults it injects, as in docs/chaos.md: ``("F1",)``."""
    summary: ClassVar[str]
    transports: ClassVar[frozenset[Transport]] = frozenset(
        {Transport.PROCESSES, Transport.NETLAB, Transport.CONTAINERS}
    )
    hold_s: ClassVar[tuple[float, float]] = (0.5, 2.0)
    """The bounds between which the time from ``inject`` to ``heal`` is drawn."""
    alone: ClassVar[bool] = False
    """Whether its ``inject`` needs a cluster that no other nemesis breaks meanwhile."""
    within_s: ClassVar[float] = 30.0
    """How soon after ``heal`` a new write must be acknowledged and all nodes be level."""

    excuses: ClassVar[tuple[str, ...]] = ()
    """Errors that a node may log because of it: any line that contains one of these."""

    def needs(self) -> str | None:
        """Say what this machine lacks for it: no root, no tool...; None when it can run."""
        return None

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        """Create what the nodes run on, below ``folder``: mounts, devices, libraries."""

    def setup(self, node_id: str) -> NodeSetup:
        """How a node has to be started for it: a wrapper, an environment, a data directory."""
        del node_id
        return NodeSetup()

    async def front(self, addresses: Sequence[str]) -> Sequence[str]:
        """Put something between clients and nodes; return the addresses for the clients."""
        return addresses

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        """Inject the fault; return a description of it."""
        raise NotImplementedError

    async def heal(self, context: RunContext) -> None:
        """End the fault. Called again at the end and if ``inject`` gets stuck: must be harmless."""

    async def cleanup(self) -> None:
        """Remove what ``prepare`` and ``front`` made."""
