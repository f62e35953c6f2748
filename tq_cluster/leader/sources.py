"""Work that time brings: expired leases, due tasks, and tasks and request ids past retention."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from tq_cluster.core.model.operations import (
    ExpireLeases,
    ForgetRequests,
    Lease,
    MakeDue,
    Operation,
    RemoveRetired,
)
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, TimestampMs
from tq_cluster.core.reads import queries
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.leader.leases import LeaseTable

TASK_ROWS: Final = 6
"""How many rows the removal of one task counts as."""
REQUESTS_A_TASK: Final = 4
"""A request id is one row, a task several."""
_ALL: Final = 0
"""The number that stands for all items of a kind without numbers."""
RETIRE_S: Final = 1.0


class ExpiredLeases:
    """Leases whose workers were silent for too long."""

    kind = "leases"
    pause_s = 0.0

    def __init__(self, leases: LeaseTable) -> None:
        self._leases = leases

    def first(self, passed_over: Collection[int]) -> int | None:
        return next((lease.token for lease in self._expired(1, passed_over)), None)

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:
        expired = self._expired(items_max + 1, passed_over)
        return ExpireLeases(leases=expired[:items_max], more=len(expired) > items_max)

    def _expired(self, most: int, passed_over: Collection[int]) -> list[Lease]:
        expired = self._leases.expired(most + len(passed_over))
        return [lease for lease in expired if lease.token not in passed_over][:most]


class DueTasks:
    """Tasks whose run_at, backoff or expire_at is over."""

    kind = "due"
    pause_s = 0.0

    def __init__(self, view: Callable[[], View], now_ms: Callable[[], TimestampMs]) -> None:
        self._view = view
        self._now_ms = now_ms

    def first(self, passed_over: Collection[int]) -> int | None:
        return queries.first_due(_scope(self._view), self._now_ms(), passed_over)

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:
        return MakeDue(tasks_max=items_max, passed_over=passed_over)


class RetiredTasks:
    """Tasks past their retention."""

    kind = "retention"
    pause_s = RETIRE_S

    def __init__(self, view: Callable[[], View], now_ms: Callable[[], TimestampMs]) -> None:
        self._view = view
        self._now_ms = now_ms

    def first(self, passed_over: Collection[int]) -> int | None:
        return queries.first_retired(_scope(self._view), self._now_ms(), passed_over)

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:
        rows_max = 1 if items_max == 1 else items_max * TASK_ROWS
        return RemoveRetired(rows_max=rows_max, passed_over=passed_over)


class PastRequests:
    """Request ids past their window."""

    kind = "requests"
    pause_s = RETIRE_S

    def __init__(self, view: Callable[[], View], passed_ms: Callable[[], int]) -> None:
        """``passed_ms`` is log time without its steps."""
        self._view = view
        self._passed_ms = passed_ms

    def first(self, passed_over: Collection[int]) -> int | None:
        # They have no numbers: if one cannot be dropped, all wait.
        forgotten_ms = None if passed_over else queries.next_forgotten_ms(_scope(self._view))
        return _ALL if forgotten_ms is not None and forgotten_ms <= self._passed_ms() else None

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:  # noqa: ARG002
        return ForgetRequests(rows_max=items_max * REQUESTS_A_TASK)


class Chore:
    """Work that is one operation at a time, not many items of a kind."""

    pause_s = 0.0

    def __init__(
        self,
        kind: str,
        ask: Callable[[], Operation | None],
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        """``ask`` returns the operation to do, if any, however often; ``begun`` notes its start."""
        self.kind = kind
        self._ask = ask
        self._begun = begun
        self._found: Operation | None = None

    def first(self, passed_over: Collection[int]) -> int | None:
        self._found = None if passed_over else self._ask()
        return None if self._found is None else _ALL

    def operation(self, items_max: int, passed_over: frozenset[int]) -> Operation:  # noqa: ARG002
        assert self._found is not None, f"{self.kind}: nothing was found"
        self._begun()
        return self._found


def _scope(view: Callable[[], View]) -> Scope[View]:
    return Scope.of(view(), DEFAULT_NAMESPACE)
