"""The same store without a disk, for tests and simulations."""

from __future__ import annotations

import copy
from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import FatalError
from tq_cluster.storage.apply import read_entry
from tq_cluster.storage.drafts import Draft
from tq_cluster.storage.environment import EMPTY
from tq_cluster.storage.hashing import Hashed, hash_range
from tq_cluster.storage.rows import check_place, unseal
from tq_cluster.storage.store import COMMIT_BYTES, COMMIT_SECONDS


class _Table:
    """Sealed rows by key, in order."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def put(self, key: bytes, sealed: bytes) -> None:
        if key not in self._rows:
            insort(self._keys, key)
        self._rows[key] = sealed

    def delete(self, key: bytes) -> None:
        if self._rows.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def between(self, start: bytes, stop: bytes, *, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        places = range(bisect_left(self._keys, start), bisect_left(self._keys, stop))
        for place in reversed(places) if reverse else places:
            key = self._keys[place]
            yield key, self._rows[key]

    def sealed_from(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in self._keys[bisect_left(self._keys, start) :]:
            yield key, self._rows[key]

    def __len__(self) -> int:
        return len(self._keys)

    def copy(self) -> _Table:
        other = _Table()
        other._rows = self._rows.copy()
        other._keys = self._keys.copy()
        return other


@dataclass
class Image:
    """A whole state. The image given to a MemoryStore holds its commits, and outlives it."""

    applied: AppliedAt = EMPTY
    tables: dict[int, _Table] = field(default_factory=dict)

    def copy(self) -> Image:
        return Image(self.applied, {number: table.copy() for number, table in self.tables.items()})

    def table(self, number: int) -> _Table:
        return self.tables.setdefault(number, _Table())


class MemoryView:
    """The state in an image."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._applied = image.applied

    @property
    def applied(self) -> AppliedAt:
        """The last entry in the view."""
        return self._applied

    def get(self, table: int, key: bytes) -> bytes | None:
        sealed = self._image.table(table).get(key)
        return None if sealed is None else unseal(table, key, sealed)

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for key, sealed in islice(self.sealed(table, start, stop, reverse=reverse), limit):
            yield key, unseal(table, key, sealed)

    def sealed(
        self, table: int, start: bytes, stop: bytes, *, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        return self._image.table(table).between(start, stop, reverse=reverse)


class _MemoryNow(MemoryView):
    """The state in an image at the time of each call."""

    @property
    def applied(self) -> AppliedAt:
        return self._image.applied


class MemoryStore:
    """The applied state in memory; a commit copies it to the given ``disk``."""

    def __init__(self, disk: Image | None = None) -> None:
        self.on_hashed: Hashed = lambda _hashed: None
        self._disk = Image() if disk is None else disk
        self._image = self._disk.copy()
        self._changed: set[int] = set()
        self._pending_bytes = 0
        self._pending_since_s: float | None = None

    @property
    def applied(self) -> AppliedAt:
        return self._image.applied

    @property
    def durable(self) -> AppliedAt:
        return self._disk.applied

    def apply(self, index: int, term: int, entry: bytes) -> bool:
        parsed = read_entry(entry, index, term, self.applied)
        for table in parsed.tables if parsed is not None else ():
            self._changed.add(table.table)
            rows = self._image.table(table.table)
            for key, sealed in zip(table.put_keys, table.put_values, strict=True):
                _check(table.table, key)
                rows.put(key, sealed)
            for key in table.deleted_keys:
                _check(table.table, key)
                rows.delete(key)
        self._image.applied = AppliedAt(index, term)
        self._pending_bytes += len(entry)
        if parsed is not None and parsed.HasField("hash_range"):
            self.on_hashed(hash_range(parsed.hash_range, index, self._sealed_rows))
        return parsed is not None

    def _sealed_rows(self, table: int, from_key: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._image.table(table).sealed_from(from_key)

    def row_count(self) -> int:
        return sum(len(table) for table in self._image.tables.values())

    def view(self) -> MemoryView:
        return MemoryView(self._image)

    @contextmanager
    def committed_view(self) -> Iterator[MemoryView]:
        yield MemoryView(copy.copy(self._disk))

    def workspace(self) -> Draft:
        return Draft(_MemoryNow(self._image))

    def commit_due(self, now_s: float) -> bool:
        if self.applied == self.durable:
            return False
        if self._pending_since_s is None:
            self._pending_since_s = now_s
        return (
            self._pending_bytes >= COMMIT_BYTES or now_s - self._pending_since_s >= COMMIT_SECONDS
        )

    def commit(self) -> None:
        self._disk.tables = self._disk.tables | {
            number: self._image.table(number).copy() for number in self._changed
        }
        self._disk.applied = self.applied
        self._changed.clear()
        self._pending_bytes = 0
        self._pending_since_s = None

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _check(table: int, key: bytes) -> None:
    try:
        check_place(table, key)
    except ValueError as error:
        raise FatalError(f"an entry cannot be applied: {error}") from error
