"""The scope that tests read: the namespace of callers that name none."""

from __future__ import annotations

from typing import TypeVar

from tq_cluster.core.model.types import DEFAULT_NAMESPACE
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

AnyView = TypeVar("AnyView", bound=View)


def scope_of(view: AnyView) -> Scope[AnyView]:
    """Return that namespace's part of a view."""
    return Scope.of(view, DEFAULT_NAMESPACE)
