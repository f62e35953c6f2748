"""A scenario: the cluster, its load, its faults and its duration."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from chaos.nemeses.nemesis import Nemesis, Transport
from chaos.workload import Workload


class Order(enum.Enum):
    """How a scenario's nemeses follow each other."""

    IN_TURN = "in turn"
    """One after the other, each at least once, with a healthy cluster in between."""
    AT_RANDOM = "at random"
    """Drawn, also on top of each other, with quiet periods."""


class Family(enum.Enum):
    """What breaks in a scenario."""

    MACHINES = "machines"
    """Nodes, disks, networks, clocks."""
    ABUSE = "abuse"
    """Nothing breaks: callers, strangers and editors of files do everything they can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Together with a seed, everything that the suite decides in a run."""

    name: str
    """``like-this``: what it is called by on the command line."""
    summary: str
    nemeses: tuple[Callable[[], Nemesis], ...]
    workloads: tuple[Callable[[], Workload], ...] = ()
    """The work beside the steady load of submits, claims, reports and reads."""
    transport: Transport = Transport.PROCESSES
    nodes: int = 3
    duration_s: float = 10.0
    """The minimum time for which faults are injected; start and end come on top."""
    order: Order = Order.IN_TURN
    lease_s: float = 2.0
    more_faults: tuple[str, ...] = ()
    """Ids of faults that come from the whole scenario or its workloads, not from one nemesis."""
    family: Family = Family.MACHINES
    others_tasks: bool = False
    """Whether the cluster holds other tasks: then only the load's tasks are checked."""
    in_ci: bool = True
    """Whether the ``ci`` profile has it; ``nightly`` has all."""

    @property
    def faults(self) -> tuple[str, ...]:
        """The ids of every fault in it."""
        found = {fault for make in self.nemeses for fault in make().faults} | {*self.more_faults}
        return tuple(sorted(found, key=lambda fault: int(fault.removeprefix("F"))))
