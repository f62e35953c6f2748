"""ClusterService.Backup at one node, over a log and a copy that do what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc.aio
import pytest

from tests.service.fakes import cluster_of, fails, stubs_of, until
from tq.internal.v1 import backup_pb2
from tq.v1.cluster_service_pb2 import BackupRequest
from tq_cluster.service import backups, pacing
from tq_cluster.service.backups import Copy, MovedError, NoRoomError

PIECES = (b"head", b"x" * 1_000, b"tail")


@dataclass
class FakeCopy:
    """A copy that yields ``PIECES``, and remembers that it was closed."""

    header: backup_pb2.BackupHeader = field(
        default_factory=lambda: backup_pb2.BackupHeader(
            cluster_id="c1", node_id="n1", applied_index=10, applied_term=1, made_at_ms=1_000
        )
    )
    file_bytes: int = sum(map(len, PIECES))
    closed: bool = False

    def pieces(self) -> Iterator[bytes]:
        yield from PIECES

    def close(self) -> None:
        self.closed = True


async def test_the_summary_comes_first_and_the_pieces_are_the_file() -> None:
    copy = FakeCopy()
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].copy_state = lambda: copy
        parts = [part async for part in stubs.cluster.Backup(BackupRequest())]

    assert parts[0].summary.cluster_id == "c1"
    assert parts[0].summary.file_bytes == copy.file_bytes
    assert b"".join(part.data for part in parts[1:]) == b"".join(PIECES)
    await until(lambda: copy.closed, "the copy is closed")


async def test_nothing_is_copied_before_the_node_has_what_was_asked_for() -> None:
    made: list[int] = []

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        log = cluster["n1"].log

        def copy() -> Copy:
            made.append(log.applied_index)
            return FakeCopy()

        cluster["n1"].copy_state = copy
        log.applied_index = 10
        call = stubs.cluster.Backup(BackupRequest(min_applied_index=12))
        first = asyncio.ensure_future(call.read())
        await until(lambda: cluster["n1"].service.calls == 1, "the call waits")
        log.apply(11)
        assert made == []
        log.apply(12)
        await first

    assert made == [12]


@pytest.mark.parametrize(("leads", "index"), [(True, 11), (True, 2**63), (False, 2**63)])
async def test_an_entry_beyond_the_logs_end_is_refused_at_once(
    leads: bool, index: int
) -> None:  # a case
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1" if leads else "n2", 2)
        with fails() as failure:
            await stubs.cluster.Backup(BackupRequest(min_applied_index=index)).read()

    assert failure.reason == "INVALID_ARGUMENT"
    assert failure.metadata["field"] == "min_applied_index"
    assert failure.message == (
        f"min_applied_index is {index}; the last entry that this node knows of is 10: it takes one"
        " that there is, or 0"
    )


async def test_only_a_few_calls_wait_for_an_entry_and_the_others_are_refused() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].copy_state = FakeCopy
        asked = BackupRequest(min_applied_index=12)
        waiting = [
            asyncio.ensure_future(stubs.cluster.Backup(asked).read())
            for _ in range(backups.WAITING_MAX)
        ]
        await until(lambda: cluster["n1"].service.calls == len(waiting), "all of them wait")
        with fails() as failure:
            await stubs.cluster.Backup(asked).read()
        waiting[0].cancel()
        await until(lambda: cluster["n1"].service.calls < len(waiting), "one has gone")
        waiting[0] = asyncio.ensure_future(stubs.cluster.Backup(asked).read())
        await until(lambda: cluster["n1"].service.calls == len(waiting), "another waits")
        cluster["n1"].log.apply(12)
        answers = await asyncio.gather(*waiting, return_exceptions=True)

    assert failure.reason == "OVERLOADED"
    assert failure.message == f"{backups.WAITING_MAX} backups wait for this node already"
    # All are woken; one copy is made at a time.
    made = [each for each in answers if not isinstance(each, BaseException)]
    assert len(made) >= 1


async def test_nothing_is_copied_before_what_was_applied_is_in_a_commit() -> None:
    made: list[str] = []
    committing, on_disk = asyncio.Event(), asyncio.Event()

    async def committed() -> None:
        committing.set()
        await on_disk.wait()

    def copy() -> Copy:
        made.append("a copy")
        return FakeCopy()

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].state_committed = committed
        cluster["n1"].copy_state = copy
        first = asyncio.ensure_future(stubs.cluster.Backup(BackupRequest()).read())
        await committing.wait()
        assert made == []
        on_disk.set()
        await first

    assert made == ["a copy"]


async def test_a_node_that_does_not_catch_up_sends_the_caller_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backups, "CATCH_UP_S", 0.0)
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].log.applied_index = 10
        with fails() as failure:
            await stubs.cluster.Backup(BackupRequest(min_applied_index=12)).read()

    assert failure.reason == "NO_LEADER"
    assert "has applied entry 10 and not yet 12: ask another node" in failure.message


async def test_a_copy_that_has_no_room_is_refused_and_the_next_one_made() -> None:
    def full() -> Copy:
        raise NoRoomError("1 MiB free")

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].copy_state = full
        with fails() as failure:
            await stubs.cluster.Backup(BackupRequest()).read()
        cluster["n1"].copy_state = FakeCopy
        again = [part async for part in stubs.cluster.Backup(BackupRequest())]

    assert (failure.reason, failure.message) == ("DISK_PRESSURE", "1 MiB free")
    assert again[0].summary.cluster_id == "c1"


async def test_a_copy_whose_caller_has_gone_is_let_go_of() -> None:
    copy = FakeCopy()
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].copy_state = lambda: copy
        call = stubs.cluster.Backup(BackupRequest())
        await call.read()
        call.cancel()
        await until(lambda: copy.closed, "the copy is closed")
        await until(lambda: cluster["n1"].service.calls == 0, "the call has ended")


@dataclass
class EndlessCopy(FakeCopy):
    """One that its reader is never done with."""

    def pieces(self) -> Iterator[bytes]:
        while not self.closed:
            yield b"x" * 262_144


async def test_a_reader_that_stops_reading_gives_its_place_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pacing, "STALLED_S", 0.2)
    endless = EndlessCopy()
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].copy_state = lambda: endless
        stalled = stubs.cluster.Backup(BackupRequest())
        await stalled.read()
        await until(lambda: endless.closed, "its copy is closed")

        cluster["n1"].copy_state = FakeCopy
        parts = [part async for part in stubs.cluster.Backup(BackupRequest())]
        with fails() as failure:
            while await stalled.read() is not grpc.aio.EOF:
                pass

    assert b"".join(part.data for part in parts[1:]) == b"".join(PIECES)
    assert failure.reason == "OVERLOADED"
    assert "nothing was read of the answer for 0.2 s" in failure.message


async def test_a_reader_that_reads_a_little_now_and_then_is_not_waited_for_forever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pacing, "SLOW_AFTER_S", 0.0)
    monkeypatch.setattr(pacing, "BYTES_PER_S_MIN", 1 << 40)
    endless = EndlessCopy()
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].copy_state = lambda: endless
        with fails() as failure:
            async for _ in stubs.cluster.Backup(BackupRequest()):
                pass

    await until(lambda: endless.closed, "its copy is closed")
    assert "KiB/s" in failure.message


def moved(times: int) -> Callable[[], Copy]:
    """A copy that comes about once the state was moved so often."""
    left = [MovedError("the state was closed meanwhile")] * times

    def copy() -> Copy:
        if left:
            raise left.pop()
        return FakeCopy()

    return copy


async def test_a_copy_that_the_state_moved_away_under_is_begun_anew() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].copy_state = moved(backups.MOVES_MAX - 1)
        parts = [part async for part in stubs.cluster.Backup(BackupRequest())]

    assert b"".join(part.data for part in parts[1:]) == b"".join(PIECES)


async def test_a_state_that_moves_all_the_time_sends_the_caller_elsewhere() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].copy_state = moved(backups.MOVES_MAX)
        with fails() as failure:
            await stubs.cluster.Backup(BackupRequest()).read()

    assert failure.reason == "OVERLOADED"
    assert "again and again: ask another node" in failure.message
