"""A copy of the committed state, made beside the writes and installed whole or not at all."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

from tq.internal.v1 import log_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.storage import copying
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.rows import CorruptRowError, seal
from tq_cluster.storage.snapshot import (
    NoRoomError,
    SnapshotError,
    SnapshotFile,
    StateMovedError,
    install_snapshot,
    make_snapshot,
)
from tq_cluster.storage.store import Store

T = 7


@pytest.fixture
def states(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "sender")


@pytest.fixture
def store(states: StateDirectory) -> Iterator[Store]:
    store = Store(states.current.path)
    yield store
    store.close()


@pytest.fixture
def receiver(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "receiver")


def put(store: Store, key: bytes, value: bytes, *, sealed: bytes | None = None) -> None:
    changes = log_pb2.TableChanges(
        table=T, put_keys=[key], put_values=[sealed or seal(T, key, value)]
    )
    entry = log_pb2.Entry(
        format=1, decided_term=3, base_index=store.applied.index, tables=[changes]
    )
    assert store.apply(store.applied.index + 1, 3, entry.SerializeToString())


def filled(store: Store, rows: int = 50) -> Store:
    for number in range(rows):
        put(store, b"key %03d" % number, b"value" * 100)
    store.commit()
    return store


def rows(store: Store) -> dict[bytes, bytes]:
    return dict(store.view().scan(T, b"", b"z", limit=10_000))


def sent(snapshot: SnapshotFile, receiver: StateDirectory) -> SnapshotFile:
    """Carry the file over, as the peers do."""
    path = receiver.snapshots / "incoming"
    path.write_bytes(snapshot.path.read_bytes())
    return replace(snapshot, path=path)


def test_a_snapshot_holds_the_last_commit_and_says_where_it_ends(
    store: Store, states: StateDirectory, receiver: StateDirectory
) -> None:
    filled(store)
    committed = rows(store)
    put(store, b"not committed", b"")

    snapshot = make_snapshot(store, states.snapshots)
    path = install_snapshot(receiver, sent(snapshot, receiver))

    installed = Store(path)
    assert installed.applied == snapshot.applied == AppliedAt(51, 3)
    assert rows(installed) == committed
    assert StateDirectory(receiver.root).current.installed == AppliedAt(51, 3)
    installed.close()


def test_the_state_goes_on_changing_while_it_is_copied(
    store: Store, states: StateDirectory, receiver: StateDirectory
) -> None:
    filled(store, 400)
    committed = rows(store)
    with ThreadPoolExecutor(1) as thread:
        making = thread.submit(make_snapshot, store, states.snapshots, bytes_per_s=2**20)
        written = 0
        while not making.done():
            put(store, b"key %03d" % (written % 400), b"new")
            written += 1
            store.commit()
        snapshot = making.result()

    installed = Store(install_snapshot(receiver, sent(snapshot, receiver)))
    assert written > 1
    shown = rows(installed)
    changed = snapshot.applied.index - 401
    assert [key for key in committed if shown[key] != committed[key]] == sorted(committed)[:changed]
    installed.close()


def test_decisions_do_not_wait_for_a_copy(store: Store, states: StateDirectory) -> None:
    filled(store, 400)
    with ThreadPoolExecutor(1) as thread:
        making = thread.submit(make_snapshot, store, states.snapshots, bytes_per_s=2**18)
        while not any(path.stat().st_size for path in states.snapshots.iterdir()):
            assert not making.done()
        for _ in range(10):
            store.workspace().get(T, b"key 001")
        copied_meanwhile = making.done()
        store.closing.set()
        with pytest.raises(SnapshotError):
            making.result()

    assert not copied_meanwhile


@pytest.mark.parametrize("end", ["close", "move"])
def test_closing_the_state_ends_a_copy_of_it(
    states: StateDirectory, tmp_path: Path, end: str
) -> None:
    store = filled(Store(states.current.path), 400)
    with ThreadPoolExecutor(1) as thread:
        making = thread.submit(make_snapshot, store, states.snapshots, bytes_per_s=2**18)
        while not any(path.stat().st_size for path in states.snapshots.iterdir()):
            assert not making.done()
        if end == "move":
            store.move_to(tmp_path / "other")
        store.close()
        with pytest.raises(StateMovedError):
            making.result()

    assert list(states.snapshots.iterdir()) == []


def test_closing_the_state_does_not_wait_until_all_rows_of_its_copy_are_checked(
    states: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large state that takes a minute, and a node that is to stop waits for its threads."""
    begun = threading.Event()

    def check(file: Path, given_up: Callable[[], bool]) -> None:
        begun.set()
        copying.check_rows(file, given_up)

    monkeypatch.setattr("tq_cluster.storage.snapshot.check_rows", check)
    monkeypatch.setattr(copying, "_CHECK", "import signal; signal.pause()")
    store = filled(Store(states.current.path), 4)
    with ThreadPoolExecutor(1) as thread:
        making = thread.submit(make_snapshot, store, states.snapshots)
        begun.wait()
        store.close()
        with pytest.raises(StateMovedError):
            making.result()

    assert list(states.snapshots.iterdir()) == []


def test_a_copy_whose_end_was_not_read_is_no_snapshot(
    states: StateDirectory, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_to = store.copy_to

    def copy_and_close(file: int) -> None:
        copy_to(file)
        store.closing.set()

    monkeypatch.setattr(store, "copy_to", copy_and_close)
    with pytest.raises(StateMovedError, match="closed meanwhile"):
        make_snapshot(filled(store), states.snapshots)


def test_an_installed_state_is_on_disk_before_it_counts(
    store: Store, states: StateDirectory, receiver: StateDirectory, calls: list[str]
) -> None:
    snapshot = sent(make_snapshot(filled(store), states.snapshots), receiver)
    calls.clear()

    install_snapshot(receiver, snapshot)

    switched = calls.index("rename CURRENT.partial")
    assert calls[:switched] == [
        "rename incoming",
        "fsync data.mdb",
        "fsync state-2",
        "fsync receiver",
        "fsync CURRENT.partial",
    ]


def test_no_reader_stays_behind_a_snapshot(store: Store, states: StateDirectory) -> None:
    make_snapshot(filled(store), states.snapshots)

    assert "no active readers" in store._env.readers()
    assert "tq-snapshot" not in {thread.name for thread in threading.enumerate()}


def test_a_snapshot_that_has_no_room_is_not_begun(store: Store, states: StateDirectory) -> None:
    filled(store)

    with pytest.raises(NoRoomError, match="MiB free"):
        make_snapshot(store, states.snapshots, room_spared_bytes=2**60)

    assert list(states.snapshots.iterdir()) == []


def test_a_damaged_row_is_found_before_it_is_sent(store: Store, states: StateDirectory) -> None:
    put(filled(store), b"key x", b"", sealed=seal(T, b"another key", b""))
    store.commit()

    with pytest.raises(CorruptRowError):
        make_snapshot(store, states.snapshots)

    assert list(states.snapshots.iterdir()) == []


def test_an_error_of_the_disk_leaves_nothing_behind(
    store: Store, states: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store)

    def full(_file: int, _data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SnapshotError, match="No space"):
        make_snapshot(store, states.snapshots)
    monkeypatch.undo()

    assert list(states.snapshots.iterdir()) == []
    assert "tq-snapshot" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("damage", ["flipped", "short", "long"])
def test_a_snapshot_that_arrived_damaged_changes_nothing(
    store: Store, states: StateDirectory, receiver: StateDirectory, damage: str
) -> None:
    snapshot = sent(make_snapshot(filled(store), states.snapshots), receiver)
    content = bytearray(snapshot.path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "short":
        del content[-1:]
    else:
        content += b"\0"
    snapshot.path.write_bytes(content)
    before = receiver.current

    with pytest.raises(SnapshotError, match="arrived damaged"):
        install_snapshot(receiver, snapshot)

    assert StateDirectory(receiver.root).current == before


def test_a_snapshot_that_ends_elsewhere_changes_nothing(
    store: Store, states: StateDirectory, receiver: StateDirectory
) -> None:
    snapshot = sent(make_snapshot(filled(store), states.snapshots), receiver)
    before = receiver.current

    with pytest.raises(SnapshotError, match="ends at"):
        install_snapshot(receiver, replace(snapshot, applied=AppliedAt(99, 3)))

    assert receiver.current == before


def test_a_file_that_is_no_state_changes_nothing(receiver: StateDirectory) -> None:
    path = receiver.snapshots / "incoming"
    path.write_bytes(b"zeros" * 4096)
    size, crc = 5 * 4096, zlib.crc32(b"zeros" * 4096)

    with pytest.raises(SnapshotError, match="is no state"):
        install_snapshot(receiver, SnapshotFile(path, AppliedAt(9, 1), size, crc))


def test_a_crash_before_the_switch_keeps_the_old_state(
    store: Store, states: StateDirectory, receiver: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Store(receiver.current.path)
    filled(old, 3)
    old.close()
    snapshot = sent(make_snapshot(filled(store), states.snapshots), receiver)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StateDirectory, "switch", crash)
    with pytest.raises(KeyboardInterrupt):
        install_snapshot(receiver, snapshot)
    monkeypatch.undo()

    again = StateDirectory(receiver.root)
    assert again.current.installed is None
    assert [path.name for path in again.root.glob("state-*")] == ["state-1"]
    kept = Store(again.current.path)
    assert kept.applied == AppliedAt(4, 3)
    kept.close()


def test_a_switch_that_failed_half_way_leaves_both_states_to_the_next_start(
    store: Store, states: StateDirectory, receiver: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = sent(make_snapshot(filled(store), states.snapshots), receiver)

    def fail(folder: Path) -> None:
        if (folder / "CURRENT").exists():
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("tq_cluster.storage.files.sync_folder", fail)
    with pytest.raises(OSError, match="Input/output"):
        install_snapshot(receiver, snapshot)
    monkeypatch.undo()

    again = StateDirectory(receiver.root)
    assert again.current.installed == snapshot.applied
    kept = Store(again.current.path)
    assert kept.applied == snapshot.applied
    kept.close()


def test_a_snapshot_is_smaller_than_a_state_full_of_holes(
    store: Store, states: StateDirectory
) -> None:
    filled(store, 500)
    doomed = log_pb2.TableChanges(table=T, deleted_keys=[b"key %03d" % n for n in range(490)])
    entry = log_pb2.Entry(format=1, decided_term=3, base_index=store.applied.index, tables=[doomed])
    store.apply(store.applied.index + 1, 3, entry.SerializeToString())
    store.commit()

    snapshot = make_snapshot(store, states.snapshots)

    assert snapshot.size_bytes < store.used_bytes() / 2
    assert snapshot.size_bytes == snapshot.path.stat().st_size
    with lmdb.open(str(snapshot.path), subdir=False, readonly=True, lock=False) as environment:
        assert environment.stat()["entries"] == 257
