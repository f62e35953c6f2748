"""Drafts: workspaces over the applied state, whose writes stay in memory.

A draft holds no transaction or cursor of the store open, so the event loop may run while one is
made: reads and commits meanwhile do not affect it. Only an applied entry makes it void.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Final, Protocol

from tq.internal.v1 import log_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import FatalError
from tq_cluster.storage.rows import KEY_BYTES_MAX, TABLE_COUNT, check_place, seal, unseal

_DEAD_MAX: Final = 64
"""The most keys, written and deleted again, before they are removed from a table's list."""
_STEP_ROWS: Final = 200
_STEP_BYTES: Final = 1 << 20
"""The most bytes sealed in one step: a millisecond or two."""
_SKIPPED_MIN: Final = 8
"""A scan records where it got to once it has skipped this many stored rows that were replaced."""


class StoredRows(Protocol):
    """The applied state under a draft, at the time of each call."""

    @property
    def applied(self) -> AppliedAt:
        """The last entry applied."""

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return a row's value; a row that fails its CRC raises."""

    def sealed(
        self, table: int, start: bytes, stop: bytes, *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield sealed rows with ``start <= key < stop``, in key order or reversed."""


class _Written:
    """A draft's writes to one table."""

    __slots__ = ("_keys", "dead", "fresh", "reached", "rows")

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        """The last value of each key; None: deleted."""
        self.fresh: list[bytes] = []
        """Keys that got a value since the last call of ``keys``."""
        self.dead = 0
        """The number of keys that lost their value again."""
        self.reached: dict[bytes, bytes] = {}
        """By start of a scan, the key up to which the draft has replaced every stored row. That
        stays true: the stored rows do not change, and a draft takes no write back."""
        self._keys: list[bytes] = []
        """In order; some may be listed twice, or deleted since."""

    def keys(self) -> list[bytes]:
        """Return the keys with a value, in order, and possibly others: check ``rows`` for each."""
        keys, fresh = self._keys, self.fresh
        if len(fresh) * 8 < len(keys):
            for key in fresh:
                insort(keys, key)
        elif fresh:
            keys.extend(fresh)
            keys.sort()
        fresh.clear()
        if self.dead > _DEAD_MAX:
            rows = self.rows
            keys[:] = [key for key in dict.fromkeys(keys) if rows[key] is not None]
            self.dead = 0
        return keys


class Draft:
    """Implements ``Workspace`` over the applied state, without changing it."""

    def __init__(self, stored: StoredRows) -> None:
        self._stored = stored
        self._written: dict[int, _Written] = {}
        self.applied = stored.applied
        """The last entry applied when it was made."""
        self.rows_read = 0
        self.rows_written = 0
        self.bytes_written = 0

    def get(self, table: int, key: bytes) -> bytes | None:
        self.rows_read += 1
        written = self._written.get(table)
        if written is not None:
            try:
                return written.rows[key]
            except KeyError:
                pass
        return self._stored.get(table, key)

    def put(self, table: int, key: bytes, value: bytes) -> None:
        if not (0 < len(key) <= KEY_BYTES_MAX and 0 <= table < TABLE_COUNT):
            check_place(table, key)
        self.rows_written += 1
        self.bytes_written += len(key) + len(value)
        try:
            written = self._written[table]
        except KeyError:
            written = self._written[table] = _Written()
        if written.rows.get(key) is None:
            written.fresh.append(key)
        written.rows[key] = value

    def delete(self, table: int, key: bytes) -> None:
        if not (0 < len(key) <= KEY_BYTES_MAX and 0 <= table < TABLE_COUNT):
            check_place(table, key)
        self.rows_written += 1
        self.bytes_written += len(key)
        try:
            written = self._written[table]
        except KeyError:
            written = self._written[table] = _Written()
        if written.rows.get(key) is not None:
            written.dead += 1
        written.rows[key] = None

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        if limit <= 0 or not stop:
            return iter(())
        merged = self._backwards if reverse else self._forwards
        return islice(merged(table, start, stop), limit)

    def _forwards(self, table: int, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        written = self._written.setdefault(table, _Written())
        rows = written.rows
        keys: list[bytes] = []
        version, place = -1, 0
        stored = self._stored.sealed(table, written.reached.get(start, start), stop, reverse=False)
        below = next(stored, None)
        self.rows_read += 1
        skipped, left = 0, start
        while True:
            if version != self.rows_written:  # the first time, or something was written meanwhile
                version, keys = self.rows_written, written.keys()
                place = bisect_left(keys, left)
            while below is not None and below[0] in rows:
                below = next(stored, None)
                self.rows_read += 1
                skipped += 1
            if skipped >= _SKIPPED_MIN and left == start:
                written.reached[start] = stop if below is None else below[0]
            while place < len(keys) and (rows[keys[place]] is None or keys[place] < left):
                place += 1
            key = keys[place] if place < len(keys) else stop
            if below is not None and below[0] < key:
                key, sealed = below
                left = key + b"\0"
                yield key, unseal(table, key, sealed)
                below = next(stored, None)
                self.rows_read += 1
            elif key < stop:
                value = rows[key]
                assert value is not None
                left = key + b"\0"
                yield key, value
            else:
                return

    def _backwards(self, table: int, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        written = self._written.setdefault(table, _Written())
        rows = written.rows
        keys: list[bytes] = []
        version, place = -1, 0
        stored = self._stored.sealed(table, start, stop, reverse=True)
        below = next(stored, None)
        self.rows_read += 1
        left = stop
        while True:
            if version != self.rows_written:
                version, keys = self.rows_written, written.keys()
                place = bisect_left(keys, left) - 1
            while below is not None and below[0] in rows:
                below = next(stored, None)
                self.rows_read += 1
            while place >= 0 and (rows[keys[place]] is None or keys[place] >= left):
                place -= 1
            key = keys[place] if place >= 0 else b""
            if below is not None and below[0] > key:
                left, sealed = below
                yield left, unseal(table, left, sealed)
                below = next(stored, None)
                self.rows_read += 1
            elif key and key >= start:
                value = rows[key]
                assert value is not None
                left = key
                yield key, value
            else:
                return

    def tables(self) -> list[log_pb2.TableChanges]:
        """Return all writes, in columns by table, in the form of an entry."""
        entry = log_pb2.Entry()
        for _ in self.filling(entry):
            pass
        return list(entry.tables)

    def filling(self, entry: log_pb2.Entry) -> Generator[None]:
        """Add all writes to an entry, in steps of a few rows.

        They are sorted, so that every node writes page by page, and sealed only now, so that each
        row is sealed once.
        """
        self._require_current()
        for table, written in sorted(self._written.items()):
            if not written.rows:
                continue
            changes = entry.tables.add(table=table)
            for piece in _pieces(sorted(written.rows.items())):
                puts = [(key, value) for key, value in piece if value is not None]
                changes.put_keys.extend([key for key, _ in puts])
                changes.put_values.extend([seal(table, key, value) for key, value in puts])
                changes.deleted_keys.extend([key for key, value in piece if value is None])
                yield
        self._require_current()

    def _require_current(self) -> None:
        if self._stored.applied != self.applied:
            raise FatalError(
                f"a decision made over {self.applied} is void: the state is at"
                f" {self._stored.applied}"
            )


def _pieces(rows: list[tuple[bytes, bytes | None]]) -> Iterator[list[tuple[bytes, bytes | None]]]:
    """Split rows into pieces of one step each."""
    start = size = 0
    for place, (_, value) in enumerate(rows):
        size += len(value or b"")
        if size >= _STEP_BYTES or place - start >= _STEP_ROWS:
            yield rows[start : place + 1]
            start, size = place + 1, 0
    if start < len(rows):
        yield rows[start:]
