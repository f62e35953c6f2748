"""How much work one entry may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tq_cluster.core.rows.view import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much work one entry may be, for the leader that decides it and the nodes that apply it.

    Facts about the work, not about the clock: the same operations make the same entries on every
    machine. An operation is not begun once any of it is spent, and goes alone if it is larger.
    """

    rows_read_max: int
    rows_written_max: int
    bytes_max: int

    def spent_by(self, workspace: Workspace) -> bool:
        """Whether what was drafted so far is all that one entry may be."""
        return (
            workspace.rows_read >= self.rows_read_max
            or workspace.rows_written >= self.rows_written_max
            or workspace.bytes_written >= self.bytes_max
        )


ENTRY_BUDGET: Final = Budget(rows_read_max=8_000, rows_written_max=8_000, bytes_max=1 << 20)
"""About 1,000 tasks submitted, claimed or completed."""


NO_BUDGET: Final = Budget(rows_read_max=1 << 62, rows_written_max=1 << 62, bytes_max=1 << 62)
