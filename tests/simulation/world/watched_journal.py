"""The product's journal, with the checker informed of every write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tq_cluster.raft.journal import Journal

if TYPE_CHECKING:
    from tests.simulation.world.checker import Checker, Observed


class WatchedJournal(Journal):
    """Informs the checker of every entry that is written or dropped."""

    _watcher: tuple[Checker, Observed] | None = None

    def watched_by(self, checker: Checker, host: Observed) -> None:
        """Inform ``checker`` of changes to the journal of ``host``."""
        self._watcher = checker, host

    def add(self, command: bytes, idx: int, term: int) -> None:
        super().add(command, idx, term)
        if self._watcher is not None:
            checker, host = self._watcher
            checker.appended(host, idx, term, command)

    def truncate(self, index: int) -> None:
        super().truncate(index)
        self._lost()

    def reset(self, index: int, term: int) -> None:
        super().reset(index, term)
        self._lost()

    def _lost(self) -> None:
        if self._watcher is not None:
            checker, host = self._watcher
            checker.lost(host)
