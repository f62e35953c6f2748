"""Backups: the committed state as one file, with a header and a checksum.

The file has a magic string, a format byte, a header, the state as LMDB's own file, and the SHA-256
of all before it. All functions here are slow and belong in a thread.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from google.protobuf.message import DecodeError

from tq.internal.v1 import backup_pb2
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads import queries
from tq_cluster.errors import StartError, TqError
from tq_cluster.storage.environment import check_state, read_state
from tq_cluster.storage.files import sync_file
from tq_cluster.storage.rows import CorruptRowError
from tq_cluster.storage.snapshot import make_snapshot
from tq_cluster.storage.store import Store

MAGIC: Final = b"tqbackup"
FORMAT: Final = 1
PIECE_BYTES: Final = 256 * 1024
HEADER_BYTES_MAX: Final = 64 * 1024
DIGEST_BYTES: Final = hashlib.sha256().digest_size

_LENGTH = struct.Struct(">I")
_PREAMBLE_BYTES = len(MAGIC) + 1 + _LENGTH.size


class BackupError(TqError):
    """The file is no usable backup; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maker:
    """The node that makes a backup, and the time."""

    node_id: str
    version: str
    made_at_ms: int
    backup_id: str
    log_time_wall_ms: int = 0


class OutgoingBackup:
    """A backup to be sent or written: its state is in an unlinked file."""

    def __init__(self, header: backup_pb2.BackupHeader, state: BinaryIO) -> None:
        self.header = header
        self._state = state
        encoded = header.SerializeToString(deterministic=True)
        self._preamble = MAGIC + bytes([FORMAT]) + _LENGTH.pack(len(encoded)) + encoded

    @property
    def file_bytes(self) -> int:
        """The length of the whole file."""
        return len(self._preamble) + self.header.state_bytes + DIGEST_BYTES

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole file in pieces."""
        digest = hashlib.sha256(self._preamble)
        yield self._preamble
        self._state.seek(0)
        while piece := self._state.read(PIECE_BYTES):
            digest.update(piece)
            yield piece
        yield digest.digest()

    def close(self) -> None:
        """Close the copy, which frees its space."""
        self._state.close()


def make_backup(store: Store, folder: Path, maker: Maker) -> OutgoingBackup:
    """Copy the state of the last commit, with every row checked; ``folder`` needs room for it.

    Raises the errors of ``make_snapshot``.
    """
    snapshot = make_snapshot(store, folder, name=f"backup-{maker.backup_id}")
    try:
        state = snapshot.path.open("rb")
        with read_state(snapshot.path) as view:
            membership = queries.membership(view)
            header = backup_pb2.BackupHeader(
                cluster_id=membership[0] if membership is not None else "",
                node_id=maker.node_id,
                version=maker.version,
                cluster_version=queries.cluster_version(view),
                applied_index=snapshot.applied.index,
                applied_term=snapshot.applied.term,
                made_at_ms=maker.made_at_ms,
                log_time_ms=queries.log_time(view),
                state_bytes=snapshot.size_bytes,
                backup_id=maker.backup_id,
                log_time_wall_ms=maker.log_time_wall_ms,
            )
    finally:
        snapshot.path.unlink()
    return OutgoingBackup(header, state)


def write_backup(backup: OutgoingBackup, path: Path) -> None:
    """Write the whole file at ``path``, which must not exist. Durable on return."""
    with path.open("xb") as file:
        for piece in backup.pieces():
            file.write(piece)
    sync_file(path)


def read_header(path: Path) -> backup_pb2.BackupHeader:
    """Return a backup's header; BackupError if the file is no usable backup.

    It checks only the header and the length: ``extract_state`` checks the rest.
    """
    with _usable(path), path.open("rb") as file:
        header, begins = _read_head(path, file)
        size = os.fstat(file.fileno()).st_size
    expected = begins + header.state_bytes + DIGEST_BYTES
    if size != expected:
        how = "ends too early" if size < expected else "goes on after its end"
        raise BackupError(f"{path} {how}: it has {size} bytes and should have {expected}")
    if header.cluster_version > CLUSTER_VERSION:
        raise BackupError(
            f"{path} is of cluster version {header.cluster_version}, this software knows"
            f" {CLUSTER_VERSION}: use a newer tq-cluster"
        )
    return header


def check_backup(path: Path, scratch: Path) -> backup_pb2.BackupHeader:
    """Check all of a backup: its digest, and every row of its state.

    BackupError says what is wrong. ``scratch`` is the path of a temporary file for the state; it
    must not exist yet, and its disk needs room for the state.
    """
    header = extract_state(path, scratch)
    try:
        check_extracted(path, scratch, header)
    finally:
        scratch.unlink()
    return header


def extract_state(path: Path, target: Path) -> backup_pb2.BackupHeader:
    """Write the state in a backup to ``target``; BackupError, and no file, if it is damaged."""
    header = read_header(path)
    with _usable(target):
        state = target.open("xb")
        try:
            with state:
                for piece in _state_pieces(path, header):
                    state.write(piece)
            sync_file(target)
        except BaseException:
            target.unlink()
            raise
    return header


def _state_pieces(path: Path, header: backup_pb2.BackupHeader) -> Iterator[bytes]:
    """Yield the state in a backup; BackupError after its last piece if the file is damaged."""
    with _usable(path), path.open("rb") as file:
        _, begins = _read_head(path, file)
        file.seek(0)
        digest = hashlib.sha256(file.read(begins))
        left = header.state_bytes
        while left and (piece := file.read(min(left, PIECE_BYTES))):
            digest.update(piece)
            yield piece
            left -= len(piece)
        if file.read() != digest.digest():
            raise BackupError(
                f"{path} is damaged: its bytes are not those that its SHA-256 was made of"
            )


def check_extracted(path: Path, state: Path, header: backup_pb2.BackupHeader) -> None:
    """Check every row of the state extracted from the backup at ``path``."""
    try:
        applied = check_state(state, rows=True)
    except (CorruptRowError, StartError) as error:
        raise BackupError(f"the state in {path} is damaged: {error}") from error
    if applied != AppliedAt(header.applied_index, header.applied_term):
        raise BackupError(
            f"the state in {path} ends at {applied}, its header says entry {header.applied_index}"
            f" of term {header.applied_term}"
        )


def _read_head(path: Path, file: BinaryIO) -> tuple[backup_pb2.BackupHeader, int]:
    """Return the header, and the offset at which the state begins."""
    preamble = file.read(_PREAMBLE_BYTES)
    if not preamble.startswith(MAGIC) or len(preamble) < _PREAMBLE_BYTES:
        raise BackupError(f"{path} is no backup of a tq cluster: it does not begin as one does")
    if preamble[len(MAGIC)] != FORMAT:
        raise BackupError(
            f"{path} has backup format {preamble[len(MAGIC)]}, this software knows {FORMAT}: use a"
            " newer tq-cluster"
        )
    (length,) = _LENGTH.unpack_from(preamble, len(MAGIC) + 1)
    encoded = file.read(min(length, HEADER_BYTES_MAX))
    try:
        header = backup_pb2.BackupHeader.FromString(encoded)
    except DecodeError:
        header = backup_pb2.BackupHeader()
    if len(encoded) < length or not header.backup_id:
        raise BackupError(f"{path} is damaged: its header cannot be read")
    return header, _PREAMBLE_BYTES + length


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupError(
            f"{error.filename or path} cannot be used: {error.strerror or error}"
        ) from error
