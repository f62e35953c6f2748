"""Undo the newest commit of a state if a power cut may have left it incomplete.

A commit writes its pages, and then the meta page that makes them valid, without waiting for the
disk: a power cut may keep the meta page and lose some of the pages. The commit is fsynced
afterwards, in a thread, and the next commit is not written before that. So every commit but the
newest is whole. LMDB keeps the meta pages of the last two, and pages that a commit frees are
overwritten by the second commit after it at the earliest. So the next process to open the state can
return to the commit before the newest, which is complete; the journal has the rest. The newest is
kept only if it was fsynced before it was used: the file ``settled`` beside the state names it.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Final

from tq_cluster.storage.files import sync_folder

SETTLED_FILE: Final = "settled"
_SLOT: Final = struct.Struct(">QI")
_SLOT_BYTES: Final = 512
"""Two slots, each in a sector of its own: damage to one leaves the other whole."""

_META: Final = struct.Struct("=II8x8xI92x8xQ")
"""LMDB's meta, after its page header: magic, version, page size, number of the commit."""
_HEAD_BYTES: Final = 16
_MAGIC: Final = 0xBEEFC0DE


def read_settled(folder: Path) -> int | None:
    """Return the number of the last commit recorded as whole; None if none is recorded."""
    try:
        content = (folder / SETTLED_FILE).read_bytes()
    except FileNotFoundError:
        return None
    noted = []
    for start in range(0, len(content) - _SLOT.size + 1, _SLOT_BYTES):
        number, crc = _SLOT.unpack_from(content, start)
        if crc == _crc(number):
            noted.append(number)
    return max(noted, default=None)


def write_settled(folder: Path, number: int) -> None:
    """Record that the commit of this number is on disk. Durable on return; needs no new room."""
    file = os.open(folder / SETTLED_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        new = not os.fstat(file).st_size
        if new:
            os.pwrite(file, bytes(2 * _SLOT_BYTES), 0)
        os.pwrite(file, _SLOT.pack(number, _crc(number)), number % 2 * _SLOT_BYTES)
        os.fsync(file)
    finally:
        os.close(file)
    if new:
        sync_folder(folder)


def undo_unsettled(folder: Path, data_file: Path) -> bool:
    """Undo the newest commit if it may not be whole; return whether it did.

    No process may have the state open. A file that is not LMDB's, or is damaged, is left alone.
    """
    settled = read_settled(folder)
    if settled is None or not data_file.exists():
        return False
    with data_file.open("r+b") as file:
        first = _read_meta(file.read(_HEAD_BYTES + _META.size))
        if first is None:
            return False
        page_bytes = first[2]
        file.seek(page_bytes)
        second = _read_meta(file.read(_HEAD_BYTES + _META.size))
        if second is None:
            return False
        numbers = (first[3], second[3])
        newest = numbers.index(max(numbers))
        if not settled <= numbers[1 - newest] < numbers[newest]:
            return False
        file.seek((1 - newest) * page_bytes + _HEAD_BYTES)
        before = file.read(_META.size)
        file.seek(newest * page_bytes + _HEAD_BYTES)
        file.write(before)
        file.flush()
        os.fsync(file.fileno())
    return True


def _read_meta(page: bytes) -> tuple[int, int, int, int] | None:
    if len(page) < _HEAD_BYTES + _META.size:
        return None
    magic, version, page_bytes, number = _META.unpack_from(page, _HEAD_BYTES)
    return (magic, version, page_bytes, number) if magic == _MAGIC else None


def _crc(number: int) -> int:
    return zlib.crc32(number.to_bytes(8, "big"))
