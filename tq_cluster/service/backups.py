"""ClusterService.Backup: a copy of this node's state, streamed while the node keeps serving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Protocol

from tq.internal.v1 import backup_pb2
from tq.v1 import cluster_service_pb2 as pb
from tq.v1 import errors_pb2
from tq_cluster.core.kernel.validation import invalid
from tq_cluster.core.model.operations import Refused
from tq_cluster.errors import OverloadedError
from tq_cluster.raft.log_api import Log, Role
from tq_cluster.service.errors import no_leader, refusal

CATCH_UP_S = 10.0
WAITING_MAX = 8
"""How many calls may wait for an entry at once; only one copy is made at a time."""
AHEAD_MAX = 100_000
"""How far beyond the known entries a follower waits: more never arrive in ten seconds."""
MOVES_MAX = 5
"""How often a copy is restarted because another state replaced the copied one."""


class NoRoomError(Exception):
    """The copy could not be made: the disk lacks room. Nothing has changed."""


class MovedError(Exception):
    """Another state has replaced the one that was being copied."""


class Copy(Protocol):
    """A copy of the state, as the bytes of a backup file."""

    @property
    def header(self) -> backup_pb2.BackupHeader:
        """The header of the file: what it holds."""

    @property
    def file_bytes(self) -> int:
        """The length of the whole file."""

    def pieces(self) -> Iterator[bytes]:
        """Yield the file from its first byte to its last; slow."""

    def close(self) -> None:
        """Release the copy."""


CopyState = Callable[[], Callable[[], Copy]]
"""The returned function copies the last commit, slowly, in a thread."""


class Backups:
    """Makes one backup at a time."""

    def __init__(
        self, *, log: Log, committed: Callable[[], Awaitable[None]], copy_state: CopyState
    ) -> None:
        self._log = log
        self._committed = committed
        self._copy_state = copy_state
        self._busy = False
        self._waiting: dict[asyncio.Future[None], int] = {}
        """The entry that each call waits for."""
        self._closing: asyncio.Future[None] | None = None
        log.on_applied(self._applied)

    async def stream(self, request: pb.BackupRequest) -> AsyncGenerator[pb.BackupResponse, None]:
        """Yield the parts of the answer."""
        await self._catch_up(request.min_applied_index)
        if self._busy:
            raise OverloadedError("a backup of this node is being made already")
        self._busy = True
        try:
            async with aclosing(self._parts()) as parts:
                async for part in parts:
                    yield part
        finally:
            self._busy = False

    async def _made(self) -> Copy:
        """Return a copy, restarted if the state moved, as when the node made its file smaller."""
        loop = asyncio.get_running_loop()
        for _ in range(MOVES_MAX):
            # The wait for the disk does not hold the loop, as for every other commit.
            await self._committed()
            making = loop.run_in_executor(None, self._copy_state())
            try:
                return await asyncio.shield(making)
            except MovedError:
                continue
            except NoRoomError as error:
                reason = errors_pb2.ERROR_REASON_DISK_PRESSURE
                raise refusal(Refused(reason=reason, message=str(error))) from error
            except asyncio.CancelledError:
                making.add_done_callback(self._close)
                raise
        raise OverloadedError("this node's state is being moved again and again: ask another node")

    async def _parts(self) -> AsyncGenerator[pb.BackupResponse, None]:
        loop = asyncio.get_running_loop()
        copy = await self._made()
        pieces = copy.pieces()
        try:
            if not copy.header.cluster_id:
                reason = errors_pb2.ERROR_REASON_NO_STATE
                raise refusal(Refused(reason=reason, message="this node has no state to copy"))
            yield pb.BackupResponse(summary=_summary(copy))
            while True:
                piece = await loop.run_in_executor(None, next, pieces, b"")
                if not piece:
                    return
                yield pb.BackupResponse(data=piece)
        finally:
            # The file has no name any more, so closing frees it, which takes a file system long.
            self._closing = loop.run_in_executor(None, copy.close)

    async def _catch_up(self, index: int) -> None:
        """Return once the state holds entry ``index``."""
        status = self._log.status()
        if status.applied_index >= index:
            return
        end = max(status.last_index, status.commit_index)
        # The leader has the whole log; followers learn of its end a moment later.
        if index > end + (0 if status.role is Role.LEADER else AHEAD_MAX):
            what = f"is {index}; the last entry that this node knows of is {end}"
            raise refusal(invalid("min_applied_index", f"{what}: it takes one that there is, or 0"))
        if len(self._waiting) >= WAITING_MAX:
            raise OverloadedError(f"{WAITING_MAX} backups wait for this node already")
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[reached] = index
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await reached
        except TimeoutError:
            applied = self._log.status().applied_index
            raise no_leader(
                f"this node has applied entry {applied} and not yet {index}: ask another node"
            ) from None
        finally:
            del self._waiting[reached]

    def _close(self, making: asyncio.Future[Copy]) -> None:
        if making.exception() is None:
            loop = asyncio.get_running_loop()
            self._closing = loop.run_in_executor(None, making.result().close)

    def _applied(self, index: int) -> None:
        for reached, awaited in self._waiting.items():
            if awaited <= index and not reached.done():
                reached.set_result(None)


def _summary(copy: Copy) -> pb.BackupSummary:
    header = copy.header
    summary = pb.BackupSummary(
        cluster_id=header.cluster_id,
        node_id=header.node_id,
        version=header.version,
        cluster_version=header.cluster_version,
        applied_index=header.applied_index,
        applied_term=header.applied_term,
        file_bytes=copy.file_bytes,
    )
    summary.made_at.FromMilliseconds(header.made_at_ms)
    return summary
