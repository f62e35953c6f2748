"""Snapshots of the real state, from one store into another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tq.internal.v1 import log_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.raft.snapshots import Incoming, Outgoing, SnapshotError
from tq_cluster.raft.state_files import StateFiles
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.rows import seal
from tq_cluster.storage.store import Store

TABLE = 7


class Side:
    """One node's state."""

    def __init__(self, root: Path) -> None:
        self.directory = StateDirectory(root)
        self.store = Store(self.directory.current.path)
        self.refusal = ""

    def files(self) -> StateFiles:
        return StateFiles(
            self.store, self.directory, asyncio.get_running_loop(), lambda _: self.refusal
        )

    def put(self, key: bytes, value: bytes) -> None:
        changes = log_pb2.TableChanges(
            table=TABLE, put_keys=[key], put_values=[seal(TABLE, key, value)]
        )
        base = self.store.applied.index
        entry = log_pb2.Entry(format=1, decided_term=1, base_index=base, tables=[changes])
        assert self.store.apply(base + 1, 1, entry.SerializeToString())
        self.store.commit()


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Side]:
    side = Side(tmp_path / "sender")
    yield side
    side.store.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Side]:
    side = Side(tmp_path / "receiver")
    yield side
    side.store.close()


async def made(side: Side) -> Outgoing:
    outcome: asyncio.Future[Outgoing | Exception] = asyncio.get_running_loop().create_future()
    side.files().make(outcome.set_result)
    file = await outcome
    assert not isinstance(file, Exception)
    return file


async def install(files: StateFiles, incoming: Incoming) -> Exception | None:
    outcome: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    files.install(incoming, outcome.set_result)
    return await outcome


def receive(files: StateFiles, file: Outgoing, *, spoil: bool = False) -> Incoming:
    incoming = files.receive(file.applied, file.size_bytes, file.crc)
    offset = 0
    while offset < file.size_bytes:
        data = file.read(offset, 10_000)
        offset += len(data)
        incoming.write(bytes(len(data)) if spoil else data)
    return incoming


async def test_a_state_goes_from_one_node_to_another(sender: Side, receiver: Side) -> None:
    for number in range(100):
        sender.put(b"key %03d" % number, b"value" * 50)
    file = await made(sender)
    sender.put(b"after the copy", b"")

    files = receiver.files()
    assert await install(files, receive(files, file)) is None
    file.discard()

    assert receiver.store.applied == receiver.store.durable == AppliedAt(101, 1)
    assert receiver.store.view().get(TABLE, b"key 042") == b"value" * 50
    assert receiver.store.view().get(TABLE, b"after the copy") is None
    # The mark stays until the journal has been brought in line, so that a crash now is survived.
    marked = receiver.directory.current.installed
    files.journal_agrees()
    assert (marked, receiver.directory.current.installed) == (AppliedAt(101, 1), None)
    assert list(receiver.directory.snapshots.iterdir()) == []


async def test_a_damaged_file_leaves_the_state_as_it_was(sender: Side, receiver: Side) -> None:
    sender.put(b"key", b"value")
    receiver.put(b"own", b"state")
    file = await made(sender)

    files = receiver.files()
    error = await install(files, receive(files, file, spoil=True))
    file.discard()

    assert isinstance(error, SnapshotError)
    assert receiver.store.view().get(TABLE, b"own") == b"state"


async def test_a_state_of_another_cluster_is_refused_before_it_takes_the_place_of_the_own(
    sender: Side, receiver: Side
) -> None:
    sender.put(b"key", b"value")
    receiver.put(b"own", b"state")
    receiver.refusal = "the state is of cluster c-2, n1 belongs to c-1"
    file = await made(sender)
    before = receiver.directory.current

    files = receiver.files()
    error = await install(files, receive(files, file))
    file.discard()

    assert isinstance(error, SnapshotError)
    assert "is not of this cluster: the state is of cluster c-2, n1 belongs to c-1" in str(error)
    assert receiver.directory.current == before
    assert receiver.store.view().get(TABLE, b"own") == b"state"


async def test_a_snapshot_that_nobody_finishes_leaves_no_file(sender: Side, receiver: Side) -> None:
    sender.put(b"key", b"value")
    file = await made(sender)
    incoming = receive(receiver.files(), file)

    incoming.discard()
    file.discard()

    assert list(receiver.directory.snapshots.iterdir()) == []
    assert list(sender.directory.snapshots.iterdir()) == []


async def test_what_is_under_way_as_the_state_is_closed_is_waited_for_and_told_to_nobody(
    sender: Side, receiver: Side
) -> None:
    sender.put(b"key", b"value")
    file = await made(sender)
    files = receiver.files()
    incoming = receive(files, file)
    told: list[Outgoing | Exception | None] = []
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
    closed = threading.Event()
    busy = loop.run_in_executor(None, closed.wait, 30)

    files.make(told.append)
    files.install(incoming, told.append)
    receiver.store.close()
    closed.set()
    await files.stopped()

    assert busy.done()
    assert told == []
    receiver.store = Store(receiver.directory.current.path)
    assert receiver.directory.current.installed == receiver.store.applied == file.applied
    file.discard()


async def test_a_snapshot_that_does_not_fit_is_refused_before_it_begins(receiver: Side) -> None:
    with pytest.raises(SnapshotError, match="no room"):
        receiver.files().receive(AppliedAt(9, 1), 1 << 60, 0)
