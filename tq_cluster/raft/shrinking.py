"""Gives disk space back after a burst: LMDB's file never gets smaller by itself.

The state of the last commit is copied without its free pages, in a thread. The copy is opened
beside the state and catches up by applying later entries of the journal, in slices; once level, it
replaces the state. The log is unaffected, and a crash at any point leaves one state or the other.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Final

from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.raft.pysyncobj_core import NO_OP
from tq_cluster.storage import snapshot as storage
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.environment import DATA_FILE
from tq_cluster.storage.files import sync_file, sync_folder
from tq_cluster.storage.store import Store

_logger = logging.getLogger(__name__)

WORTH_BYTES: Final = 64 << 20
"""Fewer free bytes than this are not worth a copy, nor are less than half of the file."""
EVERY_S: Final = 60.0
SLICE_S: Final = 0.003
SLICE_ENTRIES: Final = 200


class Shrinking:
    """Driven by ``tick``, on the loop, while the node is neither rebuilding nor installing."""

    def __init__(
        self,
        *,
        store: Store,
        states: StateDirectory,
        journal: LogJournal,
        loop: asyncio.AbstractEventLoop,
        worth_bytes: int = WORTH_BYTES,
        every_s: float = EVERY_S,
    ) -> None:
        self._store = store
        self._states = states
        self._journal = journal
        self._loop = loop
        self._worth_bytes = worth_bytes
        self._every_s = every_s
        self._due_s = loop.time() + every_s
        self._copying: asyncio.Future[Path] | None = None
        self._copy: Store | None = None
        self._of: Path | None = None
        """The state that the copy was made of."""
        self._sweeping: asyncio.Future[None] | None = None

    def tick(self, *, may_begin: bool) -> None:
        """Continue a copy, or begin one that is worth it. Raises OSError or StartError."""
        if self._copy is not None:
            self._catch_up(self._copy)
        elif self._copying is not None:
            if self._copying.done():
                done, self._copying = self._copying, None
                self._open(done)
        elif may_begin and self._loop.time() >= self._due_s:
            self._due_s = self._loop.time() + self._every_s
            free_bytes = self._store.free_bytes()
            if free_bytes >= max(self._worth_bytes, self._store.used_bytes() // 2):
                self._of = self._states.current.path
                self._copying = self._loop.run_in_executor(None, self._make_copy)

    def stop(self) -> None:
        """Give up; the next start removes the unfinished copy."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _make_copy(self) -> Path:
        file = storage.make_snapshot(self._store, self._states.snapshots, name="shrunk")
        path = self._states.next_path()
        file.path.replace(path / DATA_FILE)
        sync_file(path / DATA_FILE)
        sync_folder(path)
        return path

    def _open(self, done: asyncio.Future[Path]) -> None:
        error = done.exception()
        if isinstance(error, storage.SnapshotError):
            _logger.warning("the state cannot be made smaller now", extra={"reason": str(error)})
            return
        path = done.result()
        if self._states.current.path != self._of:
            shutil.rmtree(path, ignore_errors=True)  # it may have been swept away
            return
        self._copy = Store(path)

    def _catch_up(self, copy: Store) -> None:
        if self._states.current.path != self._of:  # a snapshot has taken its place
            self._discard(copy)
            return
        end_s = self._loop.time() + SLICE_S
        last = min(self._store.applied.index, copy.applied.index + SLICE_ENTRIES)
        while copy.applied.index < last and self._loop.time() < end_s:
            index = copy.applied.index + 1
            if index <= self._journal.first_index:
                _logger.warning(
                    "the copy of the state fell behind the journal", extra={"at": index}
                )
                self._discard(copy)
                return
            command, _, term = self._journal.entry(index)
            copy.apply(index, term, b"" if command == NO_OP else command)
        if copy.applied == self._store.applied and not self._store.being_copied:
            self._take_over(copy)

    def _take_over(self, copy: Store) -> None:
        before_bytes = self._store.used_bytes()
        copy.commit()
        path, applied = copy.path, copy.applied
        copy.close()
        self._copy = None
        old = self._states.current.path
        self._states.switch(path, applied)
        self._store.move_to(path)
        self._states.clear_mark()
        after_bytes = self._store.used_bytes()
        _logger.info(
            "the state is smaller", extra={"before_bytes": before_bytes, "bytes": after_bytes}
        )
        self._sweeping = self._loop.run_in_executor(None, shutil.rmtree, old)

    def _discard(self, copy: Store) -> None:
        path = copy.path
        copy.close()
        self._copy = None
        shutil.rmtree(path, ignore_errors=True)
