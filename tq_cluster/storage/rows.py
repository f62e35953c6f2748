"""The format of a row: a format byte, the value, and a CRC (LMDB has none).

The leader seals a row once; the entry carries the sealed bytes and every node stores them as they
are. The CRC covers table and key, too, so that a row in the place of another is detected.
"""

from __future__ import annotations

import zlib
from typing import Final

from tq_cluster.errors import FatalError

TABLE_COUNT: Final = 256
"""Tables are numbered 0 to 255."""

KEY_BYTES_MAX: Final = 511

ROW_FORMAT: Final = 1

_FORMAT_BYTE = bytes([ROW_FORMAT])
_CRC_BYTES = 4


class CorruptRowError(FatalError):
    """A row differs from what was written: this node's disk or memory is faulty."""


def seal(table: int, key: bytes, value: bytes) -> bytes:
    """Return the bytes to store for ``value`` under ``key`` of ``table``."""
    body = _FORMAT_BYTE + value
    return body + _crc(table, key, body).to_bytes(_CRC_BYTES, "big")


def unseal(table: int, key: bytes, sealed: bytes) -> bytes:
    """Return the value that was sealed; CorruptRowError if it differs from what was written."""
    body = sealed[:-_CRC_BYTES]
    if not body or _crc(table, key, body) != int.from_bytes(sealed[-_CRC_BYTES:], "big"):
        raise CorruptRowError(f"table {table}, key {key.hex()}: {len(sealed)} bytes fail their CRC")
    if body[0] != ROW_FORMAT:
        raise CorruptRowError(
            f"table {table}, key {key.hex()}: row format {body[0]}, this version knows {ROW_FORMAT}"
        )
    return body[1:]


def check_place(table: int, key: bytes) -> None:
    """Raise ValueError unless ``key`` and ``table`` are valid for a row."""
    if not 0 <= table < TABLE_COUNT:
        raise ValueError(f"table {table}: tables are numbered 0 to {TABLE_COUNT - 1}")
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise ValueError(f"a key of {len(key)} bytes: 1 to {KEY_BYTES_MAX} are possible")


def _crc(table: int, key: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(key, table))
