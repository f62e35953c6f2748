"""The state on disk: LMDB behind one write transaction that stays open.

Applied changes go into it and are committed a few times a second; a crash loses nothing, since the
journal has the rest. It is begun, used and committed on the event loop's thread only: a commit from
another thread would seem to succeed and leave the writer's lock held for ever. Other threads wait
for the disk (see ``settled``), and read through ``committed_view`` and ``copy_to``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads.queries import cluster_version
from tq_cluster.errors import DamagedStateError, DiskError, FatalError, StartError
from tq_cluster.storage.apply import read_entry
from tq_cluster.storage.copying import copy_committed
from tq_cluster.storage.drafts import Draft
from tq_cluster.storage.environment import (
    DATA_FILE,
    EMPTY,
    is_damage,
    open_environment,
    open_tables,
    read_applied,
    write_applied,
)
from tq_cluster.storage.files import RESTORE, make_folder, read_record, sync_folder, write_record
from tq_cluster.storage.hashing import Hashed, hash_range
from tq_cluster.storage.lock import DirectoryLock
from tq_cluster.storage.rows import TABLE_COUNT, CorruptRowError
from tq_cluster.storage.settled import read_settled, undo_unsettled, write_settled
from tq_cluster.storage.views import DAMAGE, LmdbNow, LmdbView

QUARANTINED: Final = "CONDEMNED"
"""The file in the directory of a damaged state that describes the damage."""
COMMIT_SECONDS: Final = 0.2
COMMIT_BYTES: Final = 4 << 20
FULL_BYTES: Final = 8 << 20
"""While a commit is under way, no more than this and one entry are applied for the next commit:
writing a commit blocks the event loop for some milliseconds per MiB."""


def quarantine(state: Path, reason: str) -> None:
    """Record that the state in its directory is damaged. Durable on return."""
    write_record(state / QUARANTINED, {"format": 1, "reason": reason})


class Store:
    """The applied state in a directory of its own."""

    def __init__(self, path: Path) -> None:
        """Open the state in ``path``; create it if it is missing.

        StartError if it is in use or written by newer software, DamagedStateError if it is
        damaged.
        """
        self.on_hashed: Hashed = lambda _hashed: None
        """Called with every range that an entry had this state hash."""
        self._copying = threading.Lock()
        self._file_lock = threading.Lock()
        self._now = LmdbNow()
        self._open(path)

    def _open(self, path: Path) -> None:
        make_folder(path)
        self.path = path
        self.closing = threading.Event()
        """Set if a thread that copies the state must give up."""
        self._pending_bytes = 0
        self._pending_since_s: float | None = None
        self._under_way: AppliedAt | None = None
        """The last entry of the commit that is written and not known to be on disk."""
        self._lock = DirectoryLock(path / "store.lock")
        try:
            self._require_unquarantined()
            undo_unsettled(path, path / DATA_FILE)
            self._open_environment()
        except BaseException:
            self._lock.release()
            raise

    def _unusable(self, error: lmdb.Error) -> StartError:
        what = f"the state in {self.path} cannot be opened: {error}"
        if is_damage(error):
            return DamagedStateError(f"{what}; {RESTORE}")
        return StartError(f"{what}; nothing is known to be wrong with it: see to its disk")

    def _require_unquarantined(self) -> None:
        found = read_record(self.path / QUARANTINED, format_known=1)
        if found is not None:
            raise DamagedStateError(f"the state in {self.path} is damaged: {found['reason']}")

    def quarantine(self, reason: str) -> None:
        """Record that this state is damaged, so that no Store opens it. Durable on return."""
        quarantine(self.path, reason)

    def _open_environment(self) -> None:
        try:
            self._env = open_environment(self.path)
        except lmdb.Error as error:
            raise self._unusable(error) from error
        try:
            self._txn = self._env.begin(write=True)
            self._tables = open_tables(self._env, self._txn)
            found = read_applied(self._txn, self._tables)
            self._applied = self._durable = self._whole = found or EMPTY
            self._check_version()
            if found is None:
                write_applied(self._txn, self._tables, EMPTY)
            # Writes nothing if nothing is new: a node starts on a full disk.
            self._txn.commit()
            self._file = os.open(self.path / DATA_FILE, os.O_RDWR)
            if found is None:
                os.fdatasync(self._file)
                sync_folder(self.path)
            self._settled = read_settled(self.path)
            self._begin()
        except lmdb.Error as error:
            self._env.close()
            raise self._unusable(error) from error
        except BaseException:
            self._env.close()
            raise

    def _begin(self) -> None:
        """Begin the transaction for the entries applied from here on."""
        self._txn = self._env.begin(write=True)
        self._now.move(self._txn, self._tables, self._applied)

    def _check_version(self) -> None:
        version = cluster_version(self.view())
        if version > CLUSTER_VERSION:
            raise StartError(
                f"the state in {self.path} is of cluster version {version}, this software knows"
                f" {CLUSTER_VERSION}: start a newer tq-cluster on it"
            )

    @property
    def applied(self) -> AppliedAt:
        """The last entry applied, durable or not."""
        return self._applied

    @property
    def durable(self) -> AppliedAt:
        """The last entry that is certain to be in this state when it is opened again.

        An entry counts once the commit after its own is on disk, too, or at once after ``commit``.
        """
        return self._durable

    @property
    def committing(self) -> bool:
        """Whether a commit is written and not known to be on disk."""
        return self._under_way is not None

    @property
    def full(self) -> bool:
        """Whether so much waits behind the commit under way that no entry should be applied now."""
        return self._under_way is not None and self._pending_bytes >= FULL_BYTES

    def apply(self, index: int, term: int, entry: bytes) -> bool:
        """Apply the entry at ``index``; if its header forbids it, only move ``applied``: False.

        After any exception from it the process must end.
        """
        parsed = read_entry(entry, index, term, self._applied)
        try:
            for table in parsed.tables if parsed is not None else ():
                database = self._tables[table.table]
                if table.put_keys:
                    with self._txn.cursor(database) as cursor:
                        cursor.putmulti(zip(table.put_keys, table.put_values, strict=True))
                for key in table.deleted_keys:
                    self._txn.delete(key, db=database)
        except DAMAGE as error:
            raise CorruptRowError(f"entry {index} of term {term} meets damage: {error}") from error
        except lmdb.Error as error:
            raise DiskError(f"entry {index} of term {term} cannot be applied: {error}") from error
        self._applied = self._now.applied = AppliedAt(index, term)
        self._pending_bytes += len(entry)
        if parsed is not None and parsed.HasField("hash_range"):
            self.on_hashed(hash_range(parsed.hash_range, index, self._sealed_rows))
        return parsed is not None

    def restart_terms(self, term: int) -> None:
        """Set the term of the last entry, for a state that becomes the start of another log."""
        self._applied = self._now.applied = AppliedAt(self._applied.index, term)

    def _sealed_rows(self, table: int, from_key: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._txn.cursor(self._tables[table]) as cursor:
                if cursor.set_range(from_key) if from_key else cursor.first():
                    yield from cursor
        except lmdb.Error as error:
            raise CorruptRowError(f"table {table} cannot be read: {error}") from error

    def row_count(self) -> int:
        """Return the number of rows; cheap."""
        return sum(self._txn.stat(db=table)["entries"] for table in self._tables[:TABLE_COUNT])

    def view(self) -> LmdbView:
        """Return the applied state, committed or not; valid until the next commit."""
        return LmdbView(self._txn, self._tables, self._applied)

    @contextmanager
    def committed_view(self) -> Iterator[LmdbView]:
        """Open a view of the last commit, in any thread.

        Keep it short: while it is open, no page that it shows is reused, and the file grows.
        """
        with self._env.begin() as txn:
            yield LmdbView(txn, self._tables, read_applied(txn, self._tables) or EMPTY)

    def workspace(self) -> Draft:
        """Return a draft over the applied state, which holds no transaction open.

        It is void once another entry is applied.
        """
        return Draft(self._now)

    def commit_due(self, now_s: float) -> bool:
        """Return whether 200 ms have passed since a call first saw changes, or 4 MiB wait."""
        if self._applied == self._durable:
            return False
        if self._pending_since_s is None:
            self._pending_since_s = now_s
        return (
            self._pending_bytes >= COMMIT_BYTES or now_s - self._pending_since_s >= COMMIT_SECONDS
        )

    def begin_commit(self) -> None:
        """Write everything applied, without waiting for the disk; call ``sync_commit`` next.

        FatalError if a commit is under way. A failure is final: the process must end.
        """
        if self._under_way is not None:
            raise FatalError("a commit of the state is under way")
        self._write()
        self._under_way = self._applied

    def sync_commit(self) -> None:
        """Wait until the written commit is on disk, in any thread; OSError if that fails."""
        with self._file_lock:
            if self._file >= 0:
                os.fdatasync(self._file)

    def end_commit(self) -> None:
        """Record that ``sync_commit`` returned. No effect if ``commit`` was called meanwhile."""
        if self._under_way is not None:
            self._durable, self._whole = self._whole, self._under_way
            self._under_way = None

    def commit(self) -> None:
        """Make everything applied durable at once. A failure is final: the process must end."""
        try:
            if self._under_way is not None:
                os.fdatasync(self._file)  # only one commit can be undone
                self.end_commit()
            self._write()
            os.fdatasync(self._file)
        except OSError as error:
            raise DiskError(f"the state in {self.path} cannot be committed: {error}") from error
        self._settle()
        self._durable = self._whole = self._applied

    def _write(self) -> None:
        if self._settled is None:
            # From now on the newest commit may be undone, but not the present one.
            self._settle()
        try:
            write_applied(self._txn, self._tables, self._applied)
            self._txn.commit()
            self._begin()
        except DAMAGE as error:
            raise CorruptRowError(f"the state in {self.path} is damaged: {error}") from error
        except lmdb.Error as error:
            raise DiskError(f"the state in {self.path} cannot be committed: {error}") from error
        self._pending_bytes = 0
        self._pending_since_s = None

    def _settle(self) -> None:
        """Record that the newest commit is on disk, and is to be kept."""
        number = self._env.info()["last_txnid"]
        try:
            write_settled(self.path, number)
        except OSError as error:
            raise DiskError(f"the state in {self.path} cannot be committed: {error}") from error
        self._settled = number

    def used_bytes(self) -> int:
        """Return the bytes of the file that are in use, including free pages inside it."""
        return (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]

    def free_bytes(self) -> int:
        """Return how much of ``used_bytes`` is free; it reads the statistics of every table."""
        stats = [self._txn.stat(table) for table in self._tables]
        pages = sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats
        )
        return max(0, self.used_bytes() - pages * self._env.stat()["psize"])

    @property
    def being_copied(self) -> bool:
        """Whether another thread copies the state now: ``close`` would have to wait."""
        return self._copying.locked()

    def copy_to(self, file: int) -> None:
        """Write the state of the last commit to a file descriptor; for another thread.

        OSError if that fails. ``closing`` is set when the store is about to be closed: the reader
        at the other end must then close its end.
        """
        with self._copying:
            if self.closing.is_set():
                raise OSError(f"the state in {self.path} is being closed")
            try:
                copy_committed(self.path, file)
            except OSError as error:
                raise OSError(f"the state in {self.path} cannot be copied: {error}") from error
            finally:
                # A killed reader would hold its pages for ever.
                self._env.reader_check()

    def move_to(self, path: Path) -> None:
        """Close this state without a commit, and open the one in ``path`` in its place.

        StartError if it cannot be opened: the process must end. Views of the old one are void.
        """
        self.close()
        self._open(path)

    def close(self) -> None:
        """Release the directory. Uncommitted changes are lost: call ``commit`` first."""
        self.closing.set()
        # LMDB must not be closed during a copy.
        with self._copying, self._file_lock:
            self._txn.abort()
            self._env.close()
            os.close(self._file)
            self._file = -1
        self._lock.release()
