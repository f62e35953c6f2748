"""Hash ranges of the state, to compare it with the other nodes' at the same entry.

A range is bounded in rows and bytes, so that hashing it blocks the event loop for about 2 ms at
most. It also checks every row's CRC: damage on this node's disk is found without the others.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tq.internal.v1 import log_pb2
from tq_cluster.storage.rows import TABLE_COUNT, unseal

_ROW = struct.Struct(">HHI")

Rows = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class HashedRange:
    """The hash of a range on this node."""

    index: int
    """The index of the entry that requested it."""
    digest: bytes
    rows: int
    next: tuple[int, bytes] | None
    """Where the next range begins: table and key. None: this range ends the state."""


Hashed = Callable[[HashedRange], None]


def hash_range(
    asked: log_pb2.HashRange, index: int, rows_of: Callable[[int, bytes], Rows]
) -> HashedRange:
    """Hash a range; ``rows_of`` yields a table's sealed rows from a key on.

    Raises CorruptRowError for a row that differs from what was written.
    """
    digest = hashlib.blake2b(digest_size=16)
    rows = size = 0
    table, from_key = asked.table, asked.from_key
    while table < TABLE_COUNT:
        for key, sealed in rows_of(table, from_key):
            unseal(table, key, sealed)
            digest.update(_ROW.pack(table, len(key), len(sealed)) + key + sealed)
            rows += 1
            size += len(key) + len(sealed)
            if rows >= asked.rows_max or size >= asked.bytes_max:
                return HashedRange(index, digest.digest(), rows, (table, key + b"\0"))
        table, from_key = table + 1, b""
    return HashedRange(index, digest.digest(), rows, None)
