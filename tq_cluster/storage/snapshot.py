"""Snapshots: a copy of the committed state as one file, and a state made from such a file.

All of it is slow and belongs in a thread; nothing here touches the open write transaction.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import StartError, TqError
from tq_cluster.storage.copying import check_rows
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.environment import DATA_FILE, check_state
from tq_cluster.storage.files import sync_file, sync_folder
from tq_cluster.storage.headroom import NO_ROOM
from tq_cluster.storage.store import Store

COPY_BYTES_PER_S: Final = 128 * 2**20
ROOM_SPARED_BYTES: Final = 64 * 2**20
"""The bytes that a snapshot leaves free on the disk."""

_CHUNK_BYTES = 2**20


class SnapshotError(TqError):
    """The snapshot was not made, or differs from the one sent; nothing has changed."""


class NoRoomError(SnapshotError):
    """The disk lacks room for it."""


class StateMovedError(SnapshotError):
    """The state was closed meanwhile; if another took its place, that one can be copied."""


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A state in one file."""

    path: Path
    applied: AppliedAt
    """The last entry in it."""
    size_bytes: int
    crc: int
    """The CRC-32 of the whole file."""


def make_snapshot(
    store: Store,
    folder: Path,
    *,
    name: str = "outgoing",
    bytes_per_s: int = COPY_BYTES_PER_S,
    room_spared_bytes: int = ROOM_SPARED_BYTES,
) -> SnapshotFile:
    """Copy the state of the last commit to a file in ``folder``, with every row checked.

    The file's name begins with ``name``, which must differ between concurrent snapshots. Raises
    SnapshotError, NoRoomError or StateMovedError if that fails, and CorruptRowError if this node's
    own state is damaged: then the process must end.
    """
    _require_room(folder, store.used_bytes(), room_spared_bytes)
    closing = store.closing
    partial = folder / f"{name}-{threading.get_ident()}.partial"
    try:
        with partial.open("wb") as file:
            crc = _copy(store, file.fileno(), bytes_per_s, closing)
            size = file.tell()
        check_rows(partial, closing.is_set)
        applied = check_state(partial, rows=False)
        path = folder / f"{name}-{applied.index}-{applied.term}-{crc:08x}"
        partial.replace(path)
    except OSError as error:
        if closing.is_set():
            raise StateMovedError("the state was closed meanwhile") from error
        kind = NoRoomError if error.errno in NO_ROOM else SnapshotError
        raise kind(f"the state cannot be copied to {folder}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return SnapshotFile(path, applied, size, crc)


def install_snapshot(
    states: StateDirectory,
    snapshot: SnapshotFile,
    admit: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Make a received snapshot the current state; return its path. Durable on return.

    The file is moved and the mark is set: the caller then opens a Store on the path, brings the
    journal in line with ``snapshot.applied`` and calls ``states.clear_mark()``. Raises
    SnapshotError, with nothing changed, if the file is not the one that was sent, and the error of
    ``admit`` if that refuses the state.
    """
    size, crc = _measure(snapshot.path)
    if (size, crc) != (snapshot.size_bytes, snapshot.crc):
        raise SnapshotError(
            f"the snapshot at {snapshot.applied} arrived damaged: {size} bytes with CRC {crc:08x}"
            f" instead of {snapshot.size_bytes} with {snapshot.crc:08x}"
        )
    try:
        applied = check_state(snapshot.path, rows=False)
    except StartError as error:
        raise SnapshotError(
            f"the snapshot at {snapshot.applied} cannot be used: {error}"
        ) from error
    if applied != snapshot.applied:
        raise SnapshotError(f"the snapshot ends at {applied}, not at {snapshot.applied}")
    admit(snapshot.path)
    path = states.next_path()
    try:
        snapshot.path.replace(path / DATA_FILE)
        sync_file(path / DATA_FILE)
        sync_folder(path)
    except OSError as error:
        shutil.rmtree(path)
        raise SnapshotError(f"the snapshot at {applied} cannot be installed: {error}") from error
    # A failure here may have taken effect: both states stay, and the process must end.
    states.switch(path, applied)
    return path


def _require_room(folder: Path, needed_bytes: int, spared_bytes: int) -> None:
    free = os.statvfs(folder)
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < needed_bytes + spared_bytes:
        raise NoRoomError(
            f"{folder} has {free_bytes >> 20} MiB free; a snapshot may need"
            f" {needed_bytes >> 20} MiB and leaves {spared_bytes >> 20} MiB alone"
        )


def _copy(store: Store, target: int, bytes_per_s: int, closing: threading.Event) -> int:
    """Copy at ``bytes_per_s`` at most; return the CRC. LMDB writes to a pipe, which slows it.

    Ends early, with an OSError, if ``closing`` is set.
    """
    outlet, inlet = os.pipe()
    failure: list[OSError] = []

    def feed() -> None:
        try:
            store.copy_to(inlet)
        except OSError as error:
            failure.append(error)
        finally:
            os.close(inlet)

    feeder = threading.Thread(target=feed, name="tq-snapshot")
    feeder.start()
    crc, copied, began = 0, 0, time.monotonic()
    try:
        while (chunk := os.read(outlet, _CHUNK_BYTES)) and not closing.is_set():
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(target, rest) :]
            crc = zlib.crc32(chunk, crc)
            copied += len(chunk)
            time.sleep(max(0.0, copied / bytes_per_s - (time.monotonic() - began)))
    finally:
        # If it is closed early, the feeder's next write fails.
        os.close(outlet)
        feeder.join()
    if failure:
        raise failure[0]
    if closing.is_set():
        raise OSError("the state was closed meanwhile")
    return crc


def _measure(path: Path) -> tuple[int, int]:
    crc = size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
            size += len(chunk)
    return size, crc
