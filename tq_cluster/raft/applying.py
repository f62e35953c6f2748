"""Applies committed entries that are on this disk: each once, in order, in bounded slices."""

from __future__ import annotations

from collections.abc import Callable

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import FatalError
from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.raft.log_api import StateMachine
from tq_cluster.raft.pysyncobj_core import NO_OP, PySyncObjCore
from tq_cluster.raft.settings import RaftSettings


class Applier:
    """Moves the state machine along the log."""

    def __init__(
        self,
        *,
        core: PySyncObjCore,
        journal: LogJournal,
        machine: StateMachine,
        settings: RaftSettings,
        now_s: Callable[[], float],
        held: Callable[[], bool],
        applied: Callable[[int, int, bool], None],
    ) -> None:
        """``held``: whether the state waits for a snapshot. ``applied`` is called per entry."""
        self._core = core
        self._journal = journal
        self._machine = machine
        self._settings = settings
        self._now_s = now_s
        self._held = held
        self._applied = applied

    @property
    def behind(self) -> bool:
        """Whether more could be applied now."""
        return self._core.applied_index < self._limit()

    def _limit(self) -> int:
        if self._held() or self._machine.full:
            return 0
        if not self._settings.rules.answer_after_fsync:
            return self._core.commit_index
        return min(self._core.commit_index, self._journal.durable_last_index())

    def apply_slice(self) -> None:
        """Apply until all is applied or the slice is used up."""
        limit = self._limit()
        slice_limit = min(limit, self._core.applied_index + self._settings.apply_slice_entries)
        end_s = self._now_s() + self._settings.apply_slice_s
        while self._core.applied_index < slice_limit:
            self._apply_next()
            if self._now_s() >= end_s or self._machine.full:
                return

    def _apply_next(self) -> None:
        command, index, term = self._journal.entry(self._core.applied_index + 1)
        took_effect = self._machine.apply(index, term, b"" if command == NO_OP else command)
        if self._machine.applied != AppliedAt(index, term):
            raise FatalError(
                f"the state is at {self._machine.applied} after entry {index} of term {term}"
            )
        # Before the callback: even if that raises, this entry is never applied again.
        self._core.applied_index = index
        self._applied(index, term, took_effect)
