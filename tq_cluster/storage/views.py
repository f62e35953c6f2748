"""Read an LMDB transaction."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import lmdb

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.storage.rows import CorruptRowError, unseal

if TYPE_CHECKING:
    from collections.abc import Sequence

DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)
"""The errors of LMDB for a file that is damaged."""


class LmdbView:
    """The state in one transaction."""

    def __init__(
        self, txn: lmdb.Transaction[bytes], tables: Sequence[lmdb._Database], applied: AppliedAt
    ) -> None:
        self._txn = txn
        self._tables = tables
        self.applied = applied
        """The last entry in the view."""

    def get(self, table: int, key: bytes) -> bytes | None:
        try:
            sealed = self._txn.get(key, db=self._tables[table])
        except lmdb.Error as error:
            raise _damaged(table, error) from error
        return None if sealed is None else unseal(table, key, sealed)

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for key, sealed in islice(self.sealed(table, start, stop, reverse=reverse), limit):
            yield key, unseal(table, key, sealed)

    def sealed(
        self, table: int, start: bytes, stop: bytes, *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the sealed rows with ``start <= key < stop``, in key order or reversed."""
        if not stop:
            return  # LMDB allows no empty key, and no key is below it
        try:
            txn: lmdb.Transaction[bytes] | None = None
            while txn is not self._txn:  # the first time, or a commit came between
                txn = self._txn
                with txn.cursor(self._tables[table]) as cursor:
                    if reverse:
                        found = cursor.prev() if cursor.set_range(stop) else cursor.last()
                        rows = cursor.iterprev()
                    else:
                        found = cursor.set_range(start) if start else cursor.first()
                        rows = cursor.iternext()
                    if not found:
                        return
                    for key, sealed in rows:
                        if key < start if reverse else key >= stop:
                            return
                        yield key, sealed
                        if self._txn is not txn:
                            start, stop = (start, key) if reverse else (key + b"\0", stop)
                            break
        except lmdb.Error as error:
            raise _damaged(table, error) from error


class LmdbNow(LmdbView):
    """The applied state at the time of each call, in one transaction after the other.

    A scan that continues after a commit reads from the next transaction.
    """

    def __init__(self) -> None:
        """Show nothing before the first ``move``."""

    def move(
        self, txn: lmdb.Transaction[bytes], tables: Sequence[lmdb._Database], applied: AppliedAt
    ) -> None:
        """Switch to another transaction."""
        super().__init__(txn, tables, applied)


def _damaged(table: int, error: lmdb.Error) -> CorruptRowError:
    return CorruptRowError(f"table {table} cannot be read: {error}")
