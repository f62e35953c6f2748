"""One namespace's part of a state; every read has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import View

AnyView = TypeVar("AnyView", bound=View)


@dataclass(frozen=True, slots=True)
class Scope(Generic[AnyView]):
    """A view, and the prefix of all keys of one namespace in it."""

    view: AnyView
    prefix: bytes

    @classmethod
    def of(cls, view: AnyView, namespace: int) -> Scope[AnyView]:
        """Return one namespace's part of a view."""
        return cls(view, tables.prefix_of(namespace))

    @property
    def namespace(self) -> int:
        """The namespace's number."""
        return tables.namespace_of(self.prefix)
