"""What a fault has to bring to be injected by the suite: see ``Nemesis``.

A nemesis is a module in ``chaos/nemeses``; a scenario that uses it stands in ``chaos/scenarios``.
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
    """Somebody else's: it can be used and judged, not broken."""


class Nemesis:
    """One way to break a cluster, and to mend it again.

    In a run, in this order: ``needs``; ``prepare`` and ``setup`` before any node starts; ``front``
    before any client connects; then ``inject`` and ``heal`` in turn, as often as the scenario has
    time for; ``cleanup`` once the nodes are gone, whatever happened before.

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
    """Between which lengths the time from ``inject`` to ``heal`` is drawn."""
    alone: ClassVar[bool] = False
    """Whether its ``inject`` needs a cluster that nothing else breaks meanwhile."""
    within_s: ClassVar[float] = 30.0
    """How soon after ``heal`` a new write has to be acknowledged and all nodes be level."""

    excuses: ClassVar[tuple[str, ...]] = ()
    """What a node may log of it as an error of its own: any line that holds one of these."""

    def needs(self) -> str | None:
        """Say what this machine lacks for it: no root, no tool...; None when it can run."""
        return None

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        """Make what the nodes are to run on, below ``folder``: mounts, devices, libraries."""

    def setup(self, node_id: str) -> NodeSetup:
        """How a node has to be started for it: a wrapper, an environment, a data directory."""
        del node_id
        return NodeSetup()

    async def front(self, addresses: Sequence[str]) -> Sequence[str]:
        """Put something between clients and nodes; the addresses that clients are to use."""
        return addresses

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        """Break something; what was broken, in words."""
        raise NotImplementedError

    async def heal(self, context: RunContext) -> None:
        """Mend it. Called once more at the end, and where ``inject`` got stuck: harmless then."""

    async def cleanup(self) -> None:
        """Remove what ``prepare`` and ``front`` made."""
