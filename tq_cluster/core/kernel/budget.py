"""The limit on the work in one entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tq_cluster.core.rows.view import Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most work in one entry, for the leader that decides it and the nodes that apply it.

    It counts work, not time: the same operations make the same entries on every machine. No
    operation is begun once a limit is reached; one that exceeds a limit is the last of its entry.
    """

    rows_read_max: int
    rows_written_max: int
    bytes_max: int

    def spent_by(self, workspace: Workspace) -> bool:
        """Return whether the draft has reached any limit."""
        return (
            workspace.rows_read >= self.rows_read_max
            or workspace.rows_written >= self.rows_written_max
            or workspace.bytes_written >= self.bytes_max
        )


ENTRY_BUDGET: Final = Budget(rows_read_max=4_000, rows_written_max=4_000, bytes_max=1 << 20)
"""About 500 tasks submitted, claimed or completed: some 50 ms of work. A call that comes meanwhile
waits for the end of the entry, and for all of its own.
"""


NO_BUDGET: Final = Budget(rows_read_max=1 << 62, rows_written_max=1 << 62, bytes_max=1 << 62)
