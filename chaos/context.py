"""The context of a scenario: the cluster, its load, and what has happened so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from chaos.clients.load import Load
from chaos.cluster.cluster import Cluster
from chaos.history.record import Ledger
from chaos.history.violation import Violation


@dataclass(slots=True, kw_only=True)
class Happening:
    """A fault, or a stage of the run, for the report; times are the ledger's."""

    name: str
    what: str
    nodes: tuple[str, ...] = ()
    began_s: float
    ended_s: float | None = None


@dataclass(slots=True)
class RunContext:
    """The context that a nemesis works with."""

    cluster: Cluster
    load: Load
    addresses: Sequence[str]
    """The addresses at which clients call the nodes."""
    happenings: list[Happening] = field(default_factory=list)
    accusations: list[Violation] = field(default_factory=list)
    tell: Callable[[str], None] | None = None
    """Called with each happening as it begins."""

    @property
    def ledger(self) -> Ledger:
        """What every client and worker saw."""
        return self.load.ledger

    def begin(self, name: str, deed: Injected, *, since_s: float | None = None) -> Happening:
        """Write down that something happens from now on, or since then."""
        happening = Happening(
            name=name,
            what=deed.what,
            nodes=deed.nodes,
            began_s=self.ledger.now_s() if since_s is None else since_s,
        )
        self.happenings.append(happening)
        if self.tell is not None:
            at_s = happening.began_s - self.ledger.started_s
            self.tell(f"{at_s:7.2f} s  {name}: {deed}")
        return happening

    def end(self, happening: Happening) -> None:
        """Write down that it is over."""
        happening.ended_s = self.ledger.now_s()

    @contextmanager
    def stage(self, name: str, what: str, *nodes: str) -> Iterator[Happening]:
        """Write down a part of what a nemesis does, with its own begin and end."""
        happening = self.begin(name, Injected(what, nodes))
        try:
            yield happening
        finally:
            self.end(happening)

    def accuse(self, promise: str, message: str) -> None:
        """Report a broken promise that no history shows, such as a call that hung."""
        self.accusations.append(Violation(promise, message))


@dataclass(frozen=True, slots=True)
class Injected:
    """What a nemesis did, for the report: ``Injected("killed", ("n1", "n2"))``."""

    what: str
    nodes: tuple[str, ...] = ()
    broke_s: float | None = None
    """When the fault began, on the ledger's clock; None: when ``inject`` began."""

    def __str__(self) -> str:
        return f"{self.what} {' '.join(self.nodes)}".rstrip()
