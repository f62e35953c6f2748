"""The state on disk: LMDB behind one write transaction that stays open.

Applied changes go into it and are committed, with fsync, a few times a second; a crash loses
nothing, since the journal has the rest. It is begun, used and committed on the event loop's thread
only: a commit from another thread would seem to succeed and leave the writer's lock held for ever.
Other threads read through ``committed_view``.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from tq_cluster.core.batch import CLUSTER_VERSION
from tq_cluster.core.queries import cluster_version
from tq_cluster.core.types import AppliedAt
from tq_cluster.errors import FatalError, StartError
from tq_cluster.storage.apply import changes_of
from tq_cluster.storage.lock import DirectoryLock
from tq_cluster.storage.rows import TABLE_COUNT, CorruptRowError, seal, unseal
from tq_cluster.storage.views import LmdbView, LmdbWorkspace

EMPTY: Final = AppliedAt(1, 0)
"""What an empty state has applied: PySyncObj's log starts with an entry at index 1 of term 0."""

STATE_FORMAT: Final = 1

DATA_FILE: Final = "data.mdb"
"""LMDB's name for its file."""

COMMIT_SECONDS: Final = 0.2
COMMIT_BYTES: Final = 16 * 2**20

# Addresses, not bytes: reserved once, so that it need not grow while readers are about.
_MAP_BYTES = 2**40
_META = TABLE_COUNT
_APPLIED_KEY = b"applied"
_SLICE_ROWS = 500
_SLICE_PAUSE_S = 0.001
_APPLIED = struct.Struct(">QQH")


class Store:
    """The applied state in a directory of its own."""

    def __init__(self, path: Path) -> None:
        """Open the state in ``path``, made where it is missing.

        StartError when it is in use, damaged, or written by newer software.
        """
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = DirectoryLock(path / "store.lock")
        self._workspace_open = False
        self._pending_bytes = 0
        self._pending_since_s: float | None = None
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _open(self) -> None:
        try:
            self._env = lmdb.open(
                str(self.path),
                map_size=_MAP_BYTES,
                max_dbs=TABLE_COUNT + 1,
                readahead=False,
                meminit=False,
            )
            self._txn = self._env.begin(write=True)
            # All at once: a table first opened inside a decision would vanish with it.
            self._tables = [
                self._env.open_db(b"%d" % number, txn=self._txn)
                for number in range(TABLE_COUNT + 1)
            ]
        except lmdb.Error as error:
            raise StartError(f"the state in {self.path} cannot be opened: {error}") from error
        try:
            self._applied = _read_applied(self._txn, self._tables[_META])
            self._check_version()
        except BaseException:
            self._txn.abort()
            self._env.close()
            raise
        self._durable = self._applied
        self.commit()

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
        """The last entry applied in a commit that is known to be on disk."""
        return self._durable

    def apply(self, index: int, term: int, entry: bytes) -> bool:
        """Apply the entry at ``index``; False when its header forbids it: only ``applied`` moves.

        Anything it raises means that the process must end.
        """
        self._require_no_workspace()
        changes = changes_of(entry, index, term, self._applied)
        try:
            for table in changes or ():
                database = self._tables[table.table]
                if table.put_keys:
                    with self._txn.cursor(database) as cursor:
                        cursor.putmulti(zip(table.put_keys, table.put_values, strict=True))
                for key in table.deleted_keys:
                    self._txn.delete(key, db=database)
        except (lmdb.Error, IndexError) as error:
            raise FatalError(f"entry {index} of term {term} cannot be applied: {error}") from error
        self._applied = AppliedAt(index, term)
        self._pending_bytes += len(entry)
        return changes is not None

    def view(self) -> LmdbView:
        """Return the applied state, committed or not; good until the next commit."""
        self._require_no_workspace()
        return LmdbView(self._txn, self._tables, self._applied)

    @contextmanager
    def committed_view(self) -> Iterator[LmdbView]:
        """The state of the last commit, in any thread.

        Be brief: while it is open, no page that it shows is used again, and the file grows.
        """
        with self._env.begin() as txn:
            yield LmdbView(txn, self._tables, _read_applied(txn, self._tables[_META]))

    @contextmanager
    def workspace(self) -> Iterator[LmdbWorkspace]:
        """Room to decide in, over the applied state; what is written to it is gone at the end."""
        self._require_no_workspace()
        txn = self._env.begin(write=True, parent=self._txn)
        self._workspace_open = True
        try:
            yield LmdbWorkspace(txn, self._tables, self._applied)
        finally:
            txn.abort()
            self._workspace_open = False

    def commit_due(self, now_s: float) -> bool:
        """Whether 200 ms have passed since there is something to commit, or 16 MiB wait."""
        if self._applied == self._durable:
            return False
        if self._pending_since_s is None:
            self._pending_since_s = now_s
        return (
            self._pending_bytes >= COMMIT_BYTES or now_s - self._pending_since_s >= COMMIT_SECONDS
        )

    def commit(self) -> None:
        """Make everything applied durable. A failure is final: the process must end."""
        self._require_no_workspace()
        row = _APPLIED.pack(self._applied.index, self._applied.term, STATE_FORMAT)
        try:
            self._txn.put(_APPLIED_KEY, seal(_META, _APPLIED_KEY, row), db=self._tables[_META])
            self._txn.commit()
            self._txn = self._env.begin(write=True)
        except lmdb.Error as error:
            raise FatalError(f"the state in {self.path} cannot be committed: {error}") from error
        self._durable = self._applied
        self._pending_bytes = 0
        self._pending_since_s = None

    def move_to(self, path: Path) -> None:
        """Go on with the state in ``path`` in place of this one, of which nothing more is kept.

        StartError when it cannot be opened: the process must end. Views of the old one are void.
        """
        self.close()
        self.__init__(path)  # type: ignore[misc]  # the same object, opened anew

    def used_bytes(self) -> int:
        """How much of the file is in use, free pages inside it included."""
        return (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]

    def copy_to(self, file: int) -> None:
        """Write the state of the last commit to a file descriptor, in any thread."""
        self._env.copyfd(file, compact=True)

    def close(self) -> None:
        """Let go of the directory. What was not committed is not kept: call ``commit`` first."""
        self._require_no_workspace()
        self._txn.abort()
        self._env.close()
        self._lock.release()

    def _require_no_workspace(self) -> None:
        # LMDB locks a transaction while one is nested in it, and says so with a bare EINVAL.
        if self._workspace_open:
            raise FatalError("the state was used while a decision is being made over it")


def _read_applied(txn: lmdb.Transaction[bytes], meta: lmdb._Database) -> AppliedAt:
    sealed = txn.get(_APPLIED_KEY, db=meta)
    if sealed is None:
        return EMPTY
    try:
        index, term, state_format = _APPLIED.unpack(unseal(_META, _APPLIED_KEY, sealed))
    except (CorruptRowError, struct.error) as error:
        raise StartError(f"the state's own record is damaged: {error}") from error
    if state_format > STATE_FORMAT:
        raise StartError(
            f"the state has format {state_format}, this software knows {STATE_FORMAT}: start a"
            " newer tq-cluster on it"
        )
    return AppliedAt(index, term)


def check_state(file: Path, *, rows: bool) -> AppliedAt:
    """Return what the state in a file of its own ends with; StartError when it cannot be opened.

    With ``rows``, read every one of them, at a pace that leaves room for others in the process.
    """
    try:
        with lmdb.open(
            str(file),
            subdir=False,
            readonly=True,
            lock=False,
            map_size=_MAP_BYTES,
            max_dbs=TABLE_COUNT + 1,
        ) as environment:
            tables = [
                environment.open_db(b"%d" % number, create=False)
                for number in range(TABLE_COUNT + 1)
            ]
            with environment.begin() as txn:
                if rows:
                    _read_all(txn, tables[:TABLE_COUNT])
                return _read_applied(txn, tables[_META])
    except lmdb.Error as error:
        raise StartError(f"{file} is no state: {error}") from error


def _read_all(txn: lmdb.Transaction[bytes], tables: list[lmdb._Database]) -> None:
    for number, table in enumerate(tables):
        with txn.cursor(table) as cursor:
            for count, (key, sealed) in enumerate(cursor):
                unseal(number, key, sealed)
                if count % _SLICE_ROWS == _SLICE_ROWS - 1:
                    time.sleep(_SLICE_PAUSE_S)
