"""What a feature registers with the core, and the registry that holds all features."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from tq_cluster.core.kernel.audit import Audited
from tq_cluster.core.kernel.batch import CLUSTER_VERSION_FIRST, GoOn, Kept, Moments, Space
from tq_cluster.core.model.operations import Caller, Operation, Outcome, Steps
from tq_cluster.core.model.types import TimestampMs
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

Kind = TypeVar("Kind", bound=Operation)

Decide: TypeAlias = Callable[[Space, Kind], Steps | Outcome]

Audit: TypeAlias = Callable[[Audited], Iterator[str]]
"""Yields the faults of one namespace of a state, in words."""


@dataclass(frozen=True, slots=True)
class Decided:
    """How one kind of operation is decided; made by `decides`."""

    operation: type[Operation]
    decide: Decide[Any]


def decides(operation: type[Kind], decide: Decide[Kind]) -> Decided:
    """Say how a kind of operation is decided; mypy checks that the function takes that kind."""
    return Decided(operation, decide)


class Instants(NamedTuple):
    """What time it is."""

    now_ms: TimestampMs
    """Log time."""
    passed_ms: int
    """Log time without its steps; request ids age by it."""


class Slice(NamedTuple):
    """How much of a kind of timed work one operation does, in one namespace."""

    items_max: int
    passed_over: frozenset[int]
    """The numbers of the items to leave, since they could not be decided."""
    more: bool
    """Whether other namespaces have such work, too."""
    caller: Caller
    """The leader itself, in the namespace of the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedWork:
    """Work that time brings, in each namespace; the leader does it in slices."""

    kind: str
    """Its name in metrics and in the log."""
    first: Callable[[Scope[View], Instants, Collection[int]], int | None]
    """Returns the number of a namespace's first item except those passed over, None without any.

    It reads a few rows: it is called some fifty times a second while the state changes.
    """
    next_in_ms: Callable[[Scope[View], Instants], int | None]
    """Returns how soon a namespace's first item is due, in ms; None without any. Until then, and
    while the state does not change, ``first`` is not called.
    """
    operation: Callable[[Slice], Operation]
    """Returns the operation that does a slice."""
    pause_s: float = 0.0
    """How many seconds it may wait for a batch made anyway, before it causes one itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Everything by which the rest of the broker learns of a feature."""

    name: str
    since: int = CLUSTER_VERSION_FIRST
    """The cluster version from which on it is used: older brokers do not know it."""
    steps: Moments = field(default_factory=Moments)
    """What it does at the moments of a task's life."""
    decisions: tuple[Decided, ...] = ()
    timed_work: tuple[TimedWork, ...] = ()
    kept_tables: Mapping[int, Kept] = field(default_factory=dict)
    """Its tables that tasks from before it need, too, by number; filled in this order."""
    continuations: Mapping[int, GoOn] = field(default_factory=dict)
    """How what it sets off goes on, by the kind of continuation (`kernel.continuations`)."""
    audits: tuple[Audit, ...] = ()
    """What must hold of every state."""


class Registry:
    """All features, by what is asked of them. The order of the features is that of their parts."""

    __slots__ = (
        "audits",
        "cluster_version",
        "continuations",
        "decisions",
        "features",
        "kept_tables",
        "moments",
        "timed_work",
    )

    def __init__(self, features: Sequence[Feature]) -> None:
        """Raise an AssertionError if features contradict each other."""
        self.features: Final = tuple(features)
        names = [feature.name for feature in features]
        assert len(names) == len(set(names)), f"two features have one name: {names}"

        self.moments: Final = Moments(
            arrive=_in_order(feature.steps.arrive for feature in features),
            ready=_in_order(feature.steps.ready for feature in features),
            start=_in_order(feature.steps.start for feature in features),
            give_back=_in_order(feature.steps.give_back for feature in features),
            end=_in_order(feature.steps.end for feature in features),
        )
        self.decisions: Final[dict[type[Operation], Decide[Any]]] = {}
        for decision in _in_order(feature.decisions for feature in features):
            operation = decision.operation
            assert operation not in self.decisions, f"two features decide {operation.__name__}"
            self.decisions[operation] = decision.decide

        self.kept_tables: Final[dict[int, Kept]] = {}
        for feature in features:
            for table, kept in feature.kept_tables.items():
                assert table not in self.kept_tables, f"two features keep table {table}"
                assert kept.version == feature.since, (
                    f"{feature.name}: table {table} is kept from version {kept.version} on,"
                    f" the feature is used from version {feature.since} on"
                )
                self.kept_tables[table] = kept

        self.continuations: Final[dict[int, GoOn]] = {}
        for feature in features:
            for kind, go_on in feature.continuations.items():
                assert kind not in self.continuations, f"two features go on with kind {kind}"
                self.continuations[kind] = go_on

        self.timed_work: Final = _in_order(feature.timed_work for feature in features)
        kinds = [work.kind for work in self.timed_work]
        assert len(kinds) == len(set(kinds)), f"two kinds of timed work have one name: {kinds}"

        self.audits: Final = _in_order(feature.audits for feature in features)
        versions = {feature.since for feature in features}
        self.cluster_version: Final = max(versions)
        """The newest rules that these features can decide by."""
        unused = set(range(CLUSTER_VERSION_FIRST, self.cluster_version + 1)) ^ versions
        assert not unused, f"cluster versions without a feature, or below the first: {unused}"


Part = TypeVar("Part")


def _in_order(parts: Iterator[tuple[Part, ...]]) -> tuple[Part, ...]:
    return tuple(part for of_feature in parts for part in of_feature)
