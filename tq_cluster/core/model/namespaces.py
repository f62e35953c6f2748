"""The namespaces of a cluster: each has queues, tasks, workers and request ids of its own.

A call names a namespace; the keys of its rows begin with the namespace's number. Task numbers,
queue ids and fencing tokens are the cluster's: no two namespaces have one in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from tq_cluster.core.model.types import DEFAULT_NAMESPACE

DEFAULT_NAME: Final = "default"
NUMBER_MAX: Final = (1 << 16) - 1
"""The largest number of a namespace: keys have two bytes for it."""


class Namespaces:
    """The namespaces that exist, by name and by number."""

    def __init__(self, others: Mapping[str, int] = MappingProxyType({})) -> None:
        """``others`` are those beside the default one: numbers from 1 to NUMBER_MAX, by name.

        ValueError for a number that is out of range or stands twice, and for the default's name.
        """
        if DEFAULT_NAME in others:
            raise ValueError(f"{DEFAULT_NAME} is the name of namespace {DEFAULT_NAMESPACE}")
        self._numbers = {DEFAULT_NAME: DEFAULT_NAMESPACE, **others}
        self._names = {number: name for name, number in self._numbers.items()}
        within = all(DEFAULT_NAMESPACE < number <= NUMBER_MAX for number in others.values())
        if not within or len(self._names) < len(self._numbers):
            raise ValueError(f"each namespace has a number of its own, 1 to {NUMBER_MAX}: {others}")
        self._ordered = tuple(sorted(self._names))

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of all namespaces, rising; the default one's is first."""
        return self._ordered

    def number_of(self, name: str) -> int | None:
        """Return the number of a namespace; None if there is none of this name."""
        return self._numbers.get(name)

    def name_of(self, number: int) -> str:
        """Return the name of a namespace, which must exist."""
        return self._names[number]

    def qualified(self, number: int, name: str) -> str:
        """Return a queue's name for people and metrics: outside the default, with its namespace.

        No name of a queue or a namespace contains the slash.
        """
        return name if number == DEFAULT_NAMESPACE else f"{self._names[number]}/{name}"


ONLY_DEFAULT: Final = Namespaces()
"""A cluster in which no further namespace was created."""
