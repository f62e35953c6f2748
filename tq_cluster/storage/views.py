"""Reading and deciding over an LMDB transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import lmdb

from tq_cluster.core.types import AppliedAt
from tq_cluster.storage.apply import Written
from tq_cluster.storage.rows import CorruptRowError, unseal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tq.internal.v1 import log_pb2

DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)
"""What LMDB says of a file that is not as it wrote it."""


class LmdbView:
    """The state as one transaction shows it."""

    def __init__(
        self, txn: lmdb.Transaction[bytes], tables: Sequence[lmdb._Database], applied: AppliedAt
    ) -> None:
        self._txn = txn
        self._tables = tables
        self.applied = applied
        """What the view holds."""

    def get(self, table: int, key: bytes) -> bytes | None:
        try:
            sealed = self._txn.get(key, db=self._tables[table])
        except lmdb.Error as error:
            raise _damaged(table, error) from error
        return None if sealed is None else unseal(table, key, sealed)

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        if not stop:
            return  # LMDB takes no empty key, and no key is below it
        try:
            with self._txn.cursor(self._tables[table]) as cursor:
                if reverse:
                    found = cursor.prev() if cursor.set_range(stop) else cursor.last()
                    rows = cursor.iterprev()
                else:
                    found = cursor.set_range(start) if start else cursor.first()
                    rows = cursor.iternext()
                if not found:
                    return
                for _, (key, sealed) in zip(range(limit), rows, strict=False):
                    if key < start if reverse else key >= stop:
                        return
                    yield key, unseal(table, key, sealed)
        except lmdb.Error as error:
            raise _damaged(table, error) from error


class LmdbWorkspace(LmdbView):
    """A nested transaction that will be aborted, and what was written to it."""

    def __init__(
        self, txn: lmdb.Transaction[bytes], tables: Sequence[lmdb._Database], applied: AppliedAt
    ) -> None:
        super().__init__(txn, tables, applied)
        self._written = Written()

    def put(self, table: int, key: bytes, value: bytes) -> None:
        sealed = self._written.put(table, key, value)
        try:
            self._txn.put(key, sealed, db=self._tables[table])
        except DAMAGE as error:
            raise _damaged(table, error) from error

    def delete(self, table: int, key: bytes) -> None:
        self._written.delete(table, key)
        try:
            self._txn.delete(key, db=self._tables[table])
        except DAMAGE as error:
            raise _damaged(table, error) from error

    def tables(self) -> list[log_pb2.TableChanges]:
        """Return all that was written, as an entry carries it."""
        return self._written.tables()


def _damaged(table: int, error: lmdb.Error) -> CorruptRowError:
    return CorruptRowError(f"table {table} cannot be read: {error}")
