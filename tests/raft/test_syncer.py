"""A job in a thread, its outcome on the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from tests.raft.modelled_disk import ModelledDisk
from tq_cluster.errors import FatalError
from tq_cluster.raft.journal import Journal
from tq_cluster.raft.syncer import ThreadSyncer


@pytest.fixture
async def syncer() -> AsyncIterator[ThreadSyncer]:
    syncer = ThreadSyncer(asyncio.get_running_loop())
    yield syncer
    syncer.close()


def fail() -> None:
    raise OSError("Input/output error")


async def outcome_of(syncer: ThreadSyncer, job: Callable[[], None]) -> BaseException | None:
    told: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    syncer.run(job, told.set_result)
    return await told


async def test_the_job_runs_in_a_thread_and_its_end_is_told_on_the_loop(
    syncer: ThreadSyncer,
) -> None:
    loop, threads = asyncio.get_running_loop(), list[int]()
    told = loop.create_future()

    def done(error: BaseException | None) -> None:
        threads.append(threading.get_ident())
        told.set_result(error)

    syncer.run(lambda: threads.append(threading.get_ident()), done)

    assert await told is None
    assert threads[0] != threads[1] == threading.get_ident()


async def test_a_job_that_raises_is_told_of(syncer: ThreadSyncer) -> None:
    assert str(await outcome_of(syncer, fail)) == "Input/output error"
    assert await outcome_of(syncer, lambda: None) is None


async def test_one_job_runs_at_a_time(syncer: ThreadSyncer) -> None:
    go_on = threading.Event()

    def wait() -> None:
        go_on.wait()

    syncer.run(wait, lambda _: None)

    with pytest.raises(RuntimeError, match="a job is running"):
        syncer.run(lambda: None, lambda _: None)

    go_on.set()


async def test_finishing_waits_for_the_job_and_tells_of_it_once(syncer: ThreadSyncer) -> None:
    told: list[BaseException | None] = []
    syncer.run(lambda: None, told.append)

    syncer.finish()
    assert told == [None]

    # What the thread posted to the loop for the first job is not taken for the second's end.
    assert str(await outcome_of(syncer, fail)) == "Input/output error"
    assert told == [None]
    syncer.finish()


async def test_a_journal_is_synced_beside_the_loop(syncer: ThreadSyncer) -> None:
    told = asyncio.Event()
    journal = Journal(ModelledDisk(), syncer, on_fatal=print)
    journal.on_synced(told.set)
    journal.add(b"", 1, 0)

    journal.request_sync()
    assert journal.durable_last_index() == 0
    await told.wait()

    assert journal.durable_last_index() == 1


async def test_an_fsync_that_fails_in_the_thread_is_fatal(syncer: ThreadSyncer) -> None:
    disk = ModelledDisk()
    fatal: asyncio.Future[FatalError] = asyncio.get_running_loop().create_future()
    journal = Journal(disk, syncer, on_fatal=fatal.set_result)
    disk.fail_syncs = True
    journal.add(b"", 1, 0)
    journal.request_sync()

    assert "Input/output error" in str(await fatal)
    assert journal.durable_last_index() == 0
