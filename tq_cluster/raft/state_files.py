"""Snapshots of the real state: made, received and installed with the storage layer, in threads."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, TypeVarTuple

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads import queries
from tq_cluster.errors import FatalError
from tq_cluster.raft.formation import Membership
from tq_cluster.raft.snapshots import Incoming, Outgoing, SnapshotError
from tq_cluster.storage import snapshot as storage
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.environment import read_state
from tq_cluster.storage.rows import CorruptRowError
from tq_cluster.storage.store import Store

_ROOM_SPARED_BYTES = 64 << 20

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class StateFiles:
    """Implements ``snapshots.States`` for a store in its directory."""

    def __init__(
        self,
        store: Store,
        directory: StateDirectory,
        loop: asyncio.AbstractEventLoop,
        contradiction: Callable[[Membership | None], str],
    ) -> None:
        """``contradiction``: why a state of that cluster and those members cannot be this node's.

        It is called in a thread.
        """
        self._store = store
        self._directory = directory
        self._loop = loop
        self._contradiction = contradiction
        self._jobs: set[asyncio.Future[Any]] = set()

    async def stopped(self) -> None:
        """Return once no thread works in the directory. Call it after the store was closed.

        A snapshot that was installed since then counts at the next start: its mark is on disk.
        """
        if self._jobs:
            await asyncio.wait(self._jobs)

    def make(self, made: Callable[[Outgoing | Exception], None]) -> None:
        job = self._begin(storage.make_snapshot, self._store, self._directory.snapshots)

        def report(done: asyncio.Future[storage.SnapshotFile]) -> None:
            error = done.exception()
            if self._store.closing.is_set() and not isinstance(error, FatalError):
                return  # the node stops: the snapshot has no receiver
            made(_OpenFile(done.result(), self._loop) if error is None else _translated(error))

        job.add_done_callback(report)

    def receive(self, applied: AppliedAt, size_bytes: int, crc: int) -> Incoming:
        folder = self._directory.snapshots
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < size_bytes + _ROOM_SPARED_BYTES:
            raise SnapshotError(f"no room for {size_bytes >> 20} MiB in {folder}")
        path = folder / f"incoming-{applied.index}-{applied.term}-{crc:08x}"
        return _PartialFile(storage.SnapshotFile(path, applied, size_bytes, crc), self._loop)

    def install(self, incoming: Incoming, installed: Callable[[Exception | None], None]) -> None:
        assert isinstance(incoming, _PartialFile)
        file = incoming.complete()
        job = self._begin(storage.install_snapshot, self._directory, file, self._require_ours)

        def report(done: asyncio.Future[Path]) -> None:
            error = done.exception()
            if self._store.closing.is_set() and not isinstance(error, FatalError):
                return
            if error is not None:
                installed(_translated(error))
                return
            try:
                self._store.move_to(done.result())
            except Exception as failure:  # noqa: BLE001 - it ends the process
                installed(failure)
            else:
                installed(None)

        job.add_done_callback(report)

    def _require_ours(self, state: Path) -> None:
        try:
            with read_state(state) as view:
                why = self._contradiction(queries.membership(view))
        except CorruptRowError as error:
            raise storage.SnapshotError(f"it is damaged: {error}") from error
        if why:
            raise storage.SnapshotError(f"it is not of this cluster: {why}")

    def journal_agrees(self) -> None:
        self._directory.clear_mark()
        # Freeing a large file takes long. What cannot be removed here, the next start removes.
        self._removing = self._begin(_remove, self._directory.others())

    def _begin(
        self, work: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> asyncio.Future[Result]:
        job = self._loop.run_in_executor(None, work, *arguments)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job


class _OpenFile:
    """A snapshot on its way out."""

    def __init__(self, file: storage.SnapshotFile, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.applied = file.applied
        self.size_bytes = file.size_bytes
        self.crc = file.crc
        self._file: BinaryIO = file.path.open("rb")
        # The name is not needed, and without it the file ends with its last descriptor.
        file.path.unlink()

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)

    def discard(self) -> None:
        self._closing = self._loop.run_in_executor(None, self._file.close)


class _PartialFile:
    """A snapshot on its way in."""

    def __init__(self, file: storage.SnapshotFile, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._target = file
        self._file: BinaryIO = file.path.open("wb")

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def complete(self) -> storage.SnapshotFile:
        self._file.close()
        return self._target

    def discard(self) -> None:
        # Unlinked while it is open, so the slow part is the close, which a thread does.
        self._target.path.unlink(missing_ok=True)
        self._closing = self._loop.run_in_executor(None, self._file.close)


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _translated(error: BaseException) -> Exception:
    if isinstance(error, storage.SnapshotError):
        return SnapshotError(str(error))
    assert isinstance(error, Exception)
    return error
