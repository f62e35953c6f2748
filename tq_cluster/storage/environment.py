"""The LMDB file of a state: its tables, its own record, and the last entry in it."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import DamagedStateError, StartError
from tq_cluster.storage.rows import TABLE_COUNT, CorruptRowError, seal, unseal
from tq_cluster.storage.views import LmdbView

STATE_FORMAT: Final = 1

EMPTY: Final = AppliedAt(1, 0)
"""The last entry of an empty state: PySyncObj's log starts with an entry at index 1 of term 0."""

DATA_FILE: Final = "data.mdb"
"""LMDB's name for its file."""

MAP_BYTES: Final = 2**40
"""Address space, not memory: reserved once, so that it need not grow while readers are open."""

_NOT_DAMAGE: Final = (lmdb.DiskError, lmdb.LockError, lmdb.MemoryError, lmdb.ReadonlyError)
_NO_ROOM: Final = (os.strerror(errno.EDQUOT), os.strerror(errno.EFBIG))
"""A quota or a file size limit, for which lmdb has no class."""

LIB_VERSION: Final = 0
"""LMDB 0.9, whose format every version of this software reads. Passed wherever a state is opened:
else an environment variable (LMDB_DEFAULT_LIB_VERSION) would choose the format."""

_NEWER: Final = struct.Struct("=II")
_NEWER_AT: Final = 24
_NEWER_HEAD: Final = (0xBEEFC0DE, 3)
"""The values there in a file of LMDB 1.0's format: LMDB's magic number, and the format's."""

_META = TABLE_COUNT
_APPLIED_KEY = b"applied"
_APPLIED = struct.Struct(">QQH")
_SLICE_ROWS = 250
_SLICE_S = 0.002
_PAUSE_S = 0.001


def is_damage(error: lmdb.Error) -> bool:
    """Return whether an error means a damaged state, rather than a fault of disk or machine."""
    return not isinstance(error, _NOT_DAMAGE) and not str(error).endswith(_NO_ROOM)


def open_environment(path: Path) -> lmdb.Environment:
    """Open the state in a directory, or create one there. Its commits do not wait for the disk."""
    _check_format(path / DATA_FILE)
    environment = lmdb.open(
        str(path),
        map_size=MAP_BYTES,
        max_dbs=TABLE_COUNT + 1,
        lib_version=LIB_VERSION,
        readahead=False,
        meminit=False,
        sync=False,
    )
    _lengthen(environment, path / DATA_FILE)
    return environment


def _check_format(file: Path) -> None:
    """Refuse a state in LMDB 1.0's format: it is not damaged, and must not be rebuilt."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_NEWER_AT + _NEWER.size)
    except FileNotFoundError:
        return
    if len(head) == _NEWER_AT + _NEWER.size and _NEWER.unpack_from(head, _NEWER_AT) == _NEWER_HEAD:
        raise StartError(
            f"{file} is in the format of LMDB 1.0, this software reads that of 0.9: it was made"
            " with LMDB_DEFAULT_LIB_VERSION=1 in the environment; nothing was changed. If the other"
            " brokers' states can be read, move this data directory away and replace the node"
        )


def _lengthen(environment: lmdb.Environment, file: Path) -> None:
    """Restore the length of a truncated file, so that its lost pages read as zeros.

    Reads find such pages to be damage. Reading past the end of a mapped file would be a bus error:
    the process would end without a message. (A sound file may be short as well: LMDB does not write
    pages that a transaction took and gave back.)
    """
    length = _length(environment)
    if file.stat().st_size < length:
        os.truncate(file, length)


def _length(environment: lmdb.Environment) -> int:
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]


def is_short(file: Path) -> bool:
    """Return whether reading the state in a file of its own could go past the end of the file."""
    with _readonly(file) as environment:
        return file.stat().st_size < _length(environment)


def open_tables(
    environment: lmdb.Environment, txn: lmdb.Transaction[bytes]
) -> list[lmdb._Database]:
    """Open all tables, and after them the state's own; create those that are missing.

    All at once, because LMDB forgets a table that was first opened in an aborted transaction.
    """
    return [environment.open_db(b"%d" % number, txn=txn) for number in range(TABLE_COUNT + 1)]


def read_applied(txn: lmdb.Transaction[bytes], tables: list[lmdb._Database]) -> AppliedAt | None:
    """Return the state's last entry, None if it was never committed; StartError if unknown."""
    sealed = txn.get(_APPLIED_KEY, db=tables[_META])
    if sealed is None:
        return None
    try:
        index, term, state_format = _APPLIED.unpack(unseal(_META, _APPLIED_KEY, sealed))
    except (CorruptRowError, struct.error) as error:
        raise DamagedStateError(f"the state's own record is damaged: {error}") from error
    if state_format > STATE_FORMAT:
        raise StartError(
            f"the state has format {state_format}, this software knows {STATE_FORMAT}: start a"
            " newer tq-cluster on it"
        )
    return AppliedAt(index, term)


def write_applied(
    txn: lmdb.Transaction[bytes], tables: list[lmdb._Database], applied: AppliedAt
) -> None:
    """Store the state's last entry, in the transaction that applies it."""
    row = _APPLIED.pack(applied.index, applied.term, STATE_FORMAT)
    txn.put(_APPLIED_KEY, seal(_META, _APPLIED_KEY, row), db=tables[_META])


def check_state(file: Path, *, rows: bool) -> AppliedAt:
    """Return the last entry of the state in a file of its own; StartError if it is no state.

    With ``rows``, read every row, with pauses for other threads, and raise CorruptRowError for the
    first damaged one.
    """
    with _opened(file) as (txn, tables):
        if rows:
            _read_all(txn, tables[:TABLE_COUNT])
        return read_applied(txn, tables) or EMPTY


def check_pages(file: Path) -> None:
    """Read the whole state in a file of its own: its rows and all its pages.

    CorruptRowError or DamagedStateError for the first damage; some damage crashes the process.
    """
    check_state(file, rows=True)
    with _readonly(file) as environment, Path(os.devnull).open("wb") as nowhere:
        # Follows every page, including those that list the free ones.
        environment.copyfd(nowhere.fileno(), compact=True)


@contextmanager
def read_state(file: Path) -> Iterator[LmdbView]:
    """Open a view of the state in a file of its own; StartError if it is no state."""
    with _opened(file) as (txn, tables):
        yield LmdbView(txn, tables, read_applied(txn, tables) or EMPTY)


@contextmanager
def _opened(file: Path) -> Iterator[tuple[lmdb.Transaction[bytes], list[lmdb._Database]]]:
    with _readonly(file) as environment:
        tables = [
            environment.open_db(b"%d" % number, create=False) for number in range(TABLE_COUNT + 1)
        ]
        with environment.begin() as txn:
            yield txn, tables


@contextmanager
def _readonly(file: Path) -> Iterator[lmdb.Environment]:
    _check_format(file)
    try:
        with lmdb.open(
            str(file),
            lib_version=LIB_VERSION,
            subdir=False,
            readonly=True,
            lock=False,
            map_size=MAP_BYTES,
            max_dbs=TABLE_COUNT + 1,
        ) as environment:
            yield environment
    except lmdb.Error as error:
        if is_damage(error):
            raise DamagedStateError(f"{file} is no state: {error}") from error
        raise StartError(f"{file} cannot be read: {error}") from error


def _read_all(txn: lmdb.Transaction[bytes], tables: list[lmdb._Database]) -> None:
    began_s = time.monotonic()
    for number, table in enumerate(tables):
        with txn.cursor(table) as cursor:
            for count, (key, sealed) in enumerate(cursor):
                unseal(number, key, sealed)
                # The event loop waits for the interpreter during a slice.
                if count % _SLICE_ROWS == 0 and time.monotonic() - began_s > _SLICE_S:
                    time.sleep(_PAUSE_S)
                    began_s = time.monotonic()
