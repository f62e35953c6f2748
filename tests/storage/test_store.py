"""What every store promises: run on LMDB and on the one in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from tq.internal.v1 import log_pb2, state_pb2
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.rows import tables
from tq_cluster.errors import DamagedStateError, FatalError, StartError
from tq_cluster.storage.memory import Image, MemoryStore
from tq_cluster.storage.rows import CorruptRowError, seal
from tq_cluster.storage.store import (
    COMMIT_BYTES,
    Store,
)

AnyStore = Store | MemoryStore
Reopen = Callable[[], AnyStore]

T = 7


@pytest.fixture(params=["lmdb", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Open the store, or open it again as after a crash: what was not committed is gone."""
    image = Image()
    stores: list[AnyStore] = []

    def open_again() -> AnyStore:
        for store in stores:
            store.close()
        stores[:] = [Store(tmp_path / "state") if request.param == "lmdb" else MemoryStore(image)]
        return stores[0]

    yield open_again
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Reopen) -> AnyStore:
    return opened()


def entry(
    store: AnyStore,
    puts: dict[bytes, bytes] | None = None,
    deletes: list[bytes] | None = None,
    *,
    table: int = T,
    decided_term: int = 1,
    base_index: int | None = None,
) -> bytes:
    puts = puts or {}
    changes = log_pb2.TableChanges(
        table=table,
        put_keys=list(puts),
        put_values=[seal(table, key, value) for key, value in puts.items()],
        deleted_keys=deletes or [],
    )
    return log_pb2.Entry(
        format=1,
        decided_term=decided_term,
        base_index=store.applied.index if base_index is None else base_index,
        tables=[changes],
    ).SerializeToString()


def apply(store: AnyStore, puts: dict[bytes, bytes], deletes: list[bytes] | None = None) -> bool:
    return store.apply(store.applied.index + 1, 1, entry(store, puts, deletes))


def rows(store: AnyStore, table: int = T) -> dict[bytes, bytes]:
    return dict(store.view().scan(table, b"", b"\xff" * 12, limit=1_000))


def test_an_empty_store_stands_at_the_entry_every_log_begins_with(store: AnyStore) -> None:
    assert store.applied == store.durable == AppliedAt(1, 0)


def test_an_entry_is_applied_blindly_and_moves_applied(store: AnyStore) -> None:
    assert apply(store, {b"a": b"1", b"b": b"2"})
    assert apply(store, {b"c": b"3"}, [b"a", b"never there"])

    assert rows(store) == {b"b": b"2", b"c": b"3"}
    assert store.applied == AppliedAt(3, 1)


def test_an_elections_no_op_only_moves_applied(store: AnyStore) -> None:
    assert store.apply(2, 5, b"")

    assert store.applied == AppliedAt(2, 5)
    assert rows(store) == {}


@pytest.mark.parametrize(("decided_term", "base_index"), [(1, 7), (2, 1), (2, 7), (1, 0)])
def test_an_entry_decided_elsewhere_changes_nothing_but_applied(
    store: AnyStore, decided_term: int, base_index: int
) -> None:
    stray = entry(store, {b"a": b"1"}, decided_term=decided_term, base_index=base_index)

    assert not store.apply(2, 1, stray)

    assert rows(store) == {}
    assert store.applied == AppliedAt(2, 1)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_an_entry_out_of_turn_ends_the_process(store: AnyStore, index: int) -> None:
    with pytest.raises(FatalError, match=f"entry {index}"):
        store.apply(index, 1, entry(store, {b"a": b"1"}))


def test_an_entry_that_cannot_be_read_ends_the_process(store: AnyStore) -> None:
    with pytest.raises(FatalError, match="cannot be read"):
        store.apply(2, 1, b"\xff\xff\xff")


def test_an_entry_of_an_unknown_format_ends_the_process(store: AnyStore) -> None:
    newer = log_pb2.Entry(format=2, decided_term=1, base_index=1).SerializeToString()

    with pytest.raises(FatalError, match="format 2"):
        store.apply(2, 1, newer)


@pytest.mark.parametrize("key", [b"", b"k" * 512])
def test_an_entry_with_an_impossible_key_ends_the_process(store: AnyStore, key: bytes) -> None:
    with pytest.raises(FatalError):
        apply(store, {key: b"1"})


def test_an_entry_cannot_reach_the_stores_own_records(store: AnyStore) -> None:
    with pytest.raises(FatalError, match="table 256"):
        store.apply(2, 1, entry(store, {b"applied": b"1"}, table=256))


def test_an_entry_with_uneven_columns_ends_the_process(store: AnyStore) -> None:
    uneven = log_pb2.TableChanges(table=T, put_keys=[b"a", b"b"], put_values=[b"1"])
    broken = log_pb2.Entry(format=1, decided_term=1, base_index=1, tables=[uneven])

    with pytest.raises(FatalError, match="2 keys and 1 values"):
        store.apply(2, 1, broken.SerializeToString())


def test_a_scan_is_a_bounded_range_in_either_direction(store: AnyStore) -> None:
    apply(store, {bytes([65 + n]): bytes([n]) for n in range(10)})
    view = store.view()

    def keys(start: bytes, stop: bytes, limit: int = 99, *, reverse: bool = False) -> bytes:
        return b"".join(key for key, _ in view.scan(T, start, stop, limit=limit, reverse=reverse))

    assert keys(b"C", b"F") == b"CDE"
    assert keys(b"", b"C") == b"AB"
    assert keys(b"Bx", b"C\x00") == b"C"
    assert keys(b"A", b"Z" * 600, 3) == b"ABC"
    assert keys(b"C", b"F", reverse=True) == b"EDC"
    assert keys(b"", b"Z", 2, reverse=True) == b"JI"
    assert keys(b"", b"A", reverse=True) == keys(b"F", b"C") == keys(b"", b"") == b""
    assert keys(b"A", b"Z", 0) == keys(b"", b"", reverse=True) == b""
    assert list(view.scan(T + 1, b"", b"Z", limit=9)) == []


def test_what_is_decided_is_seen_while_deciding_and_gone_afterwards(store: AnyStore) -> None:
    apply(store, {b"a": b"1", b"b": b"2"})

    workspace = store.workspace()
    workspace.put(T, b"a", b"new")
    workspace.delete(T, b"b")
    workspace.put(200, b"first row of its table", b"x")
    assert dict(workspace.scan(T, b"", b"z", limit=9)) == {b"a": b"new"}
    assert workspace.get(200, b"first row of its table") == b"x"

    assert rows(store) == {b"a": b"1", b"b": b"2"}
    assert rows(store, 200) == {}


def test_the_changes_of_a_decision_carry_the_last_write_to_each_key_in_order(
    store: AnyStore,
) -> None:
    workspace = store.workspace()
    workspace.put(9, b"z", b"1")
    workspace.put(T, b"b", b"1")
    workspace.put(T, b"a", b"1")
    workspace.put(T, b"a", b"2")
    workspace.put(T, b"c", b"1")
    workspace.delete(T, b"c")
    workspace.delete(T, b"d")
    workspace.put(T, b"d", b"3")
    changes = workspace.tables()

    assert changes == [
        log_pb2.TableChanges(
            table=T,
            put_keys=[b"a", b"b", b"d"],
            put_values=[seal(T, b"a", b"2"), seal(T, b"b", b"1"), seal(T, b"d", b"3")],
            deleted_keys=[b"c"],
        ),
        log_pb2.TableChanges(table=9, put_keys=[b"z"], put_values=[seal(9, b"z", b"1")]),
    ]


def test_a_decision_that_raises_leaves_no_trace(store: AnyStore) -> None:
    def decide() -> None:
        workspace = store.workspace()
        workspace.put(T, b"a", b"1")
        raise LookupError

    with pytest.raises(LookupError):
        decide()

    assert rows(store) == {}
    assert apply(store, {b"b": b"2"})


@pytest.mark.parametrize("key", [b"", b"k" * 512])
def test_a_decision_cannot_write_an_impossible_key(store: AnyStore, key: bytes) -> None:
    workspace = store.workspace()
    with pytest.raises(ValueError, match=f"a key of {len(key)} bytes"):
        workspace.put(T, key, b"1")
    with pytest.raises(ValueError, match="table 256"):
        workspace.put(256, b"applied", b"1")


def test_a_draft_goes_on_over_reads_and_commits(store: AnyStore) -> None:
    apply(store, {bytes([65 + n]): bytes([n]) for n in range(10)})
    draft = store.workspace()
    draft.delete(T, b"B")
    ahead = draft.scan(T, b"A", b"Z", limit=99)
    back = draft.scan(T, b"A", b"Z", limit=99, reverse=True)
    shown = [next(ahead), next(back)]

    store.commit()
    assert store.view().get(T, b"B") == bytes([1])
    store.commit()

    assert draft.get(T, b"C") == bytes([2])
    assert b"".join(key for key, _ in [shown[0], *ahead]) == b"ACDEFGHIJ"
    assert b"".join(key for key, _ in [shown[1], *back]) == b"JIHGFEDCA"
    assert draft.tables() == [log_pb2.TableChanges(table=T, deleted_keys=[b"B"])]


def test_a_draft_goes_on_when_the_same_state_is_opened_in_another_place(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "one"), Store(tmp_path / "two")
    for each in (store, other):
        apply(each, {b"a": b"1", b"b": b"2", b"c": b"3"})
    other.commit()
    other.close()
    draft = store.workspace()
    rows_ahead = draft.scan(T, b"a", b"z", limit=9)
    assert next(rows_ahead) == (b"a", b"1")

    store.move_to(tmp_path / "two")

    assert list(rows_ahead) == [(b"b", b"2"), (b"c", b"3")]
    assert draft.get(T, b"b") == b"2"
    assert draft.tables() == []
    store.close()


def test_a_draft_is_void_once_another_entry_is_applied(store: AnyStore) -> None:
    draft = store.workspace()
    draft.put(T, b"a", b"1")

    assert store.apply(2, 1, b"")

    with pytest.raises(FatalError, match="is void"):
        draft.tables()


def test_only_committed_changes_survive_a_crash(opened: Reopen) -> None:
    store = opened()
    apply(store, {b"kept": b"1"})
    store.commit()
    apply(store, {b"lost": b"2"})
    assert (store.applied.index, store.durable.index) == (3, 2)

    store = opened()

    assert rows(store) == {b"kept": b"1"}
    assert store.applied == store.durable == AppliedAt(2, 1)


def test_a_committed_view_says_how_far_it_goes(store: AnyStore) -> None:
    apply(store, {b"a": b"1"})
    store.commit()
    apply(store, {b"a": b"2"})

    with store.committed_view() as view:
        assert view.applied == AppliedAt(2, 1)
        assert view.get(T, b"a") == b"1"
        apply(store, {b"a": b"3"})
        store.commit()
        assert view.get(T, b"a") == b"1"
    with store.committed_view() as view:
        assert view.applied == AppliedAt(4, 1)
        assert view.get(T, b"a") == b"3"


def test_a_view_that_was_kept_too_long_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    view = store.view()
    store.commit()

    with pytest.raises(CorruptRowError, match="table 7 cannot be read"):
        view.get(T, b"a")
    with pytest.raises(CorruptRowError, match="table 7 cannot be read"):
        list(view.scan(T, b"", b"z", limit=1))

    store.close()


def test_another_thread_reads_what_was_committed(store: AnyStore) -> None:
    apply(store, {b"a": b"1"})
    store.commit()
    seen: list[bytes | None] = []

    def read() -> None:
        with store.committed_view() as view:
            seen.append(view.get(T, b"a"))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()

    assert seen == [b"1"]


def test_a_commit_is_due_a_while_after_the_first_change_or_at_once_when_large(
    store: AnyStore,
) -> None:
    assert not store.commit_due(0.0)
    apply(store, {b"a": b"1"})
    assert not store.commit_due(10.0)
    assert not store.commit_due(10.19)
    assert store.commit_due(10.21)

    store.commit()
    assert not store.commit_due(99.0)

    apply(store, {b"large": b"x" * COMMIT_BYTES})
    assert store.commit_due(99.0)


def test_values_larger_than_a_page_come_back_whole(opened: Reopen) -> None:
    store = opened()
    large = {b"page": b"p" * 4096, b"row": b"r" * 65_536, b"more": b"m" * 200_000, b"none": b""}
    apply(store, large)
    store.commit()

    assert rows(opened()) == large


def test_a_row_that_does_not_belong_to_its_key_is_noticed(store: AnyStore) -> None:
    swapped = log_pb2.TableChanges(table=T, put_keys=[b"b"], put_values=[seal(T, b"a", b"1")])
    message = log_pb2.Entry(format=1, decided_term=1, base_index=1, tables=[swapped])
    store.apply(2, 1, message.SerializeToString())

    with pytest.raises(CorruptRowError, match="key 62"):
        store.view().get(T, b"b")
    with pytest.raises(CorruptRowError, match="key 62"):
        list(store.view().scan(T, b"", b"z", limit=1))


def test_a_state_of_a_newer_cluster_version_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    row = state_pb2.ClusterRow(cluster_version=CLUSTER_VERSION + 1).SerializeToString()
    store.apply(2, 1, entry(store, {tables.CLUSTER_KEY: row}, table=tables.META))
    store.commit()
    store.close()

    for _ in range(2):
        with pytest.raises(StartError, match=f"cluster version {CLUSTER_VERSION + 1}.*newer"):
            Store(tmp_path)


def test_a_state_in_use_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)

    with pytest.raises(StartError, match="in use"):
        Store(tmp_path)

    store.close()
    Store(tmp_path).close()


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1_000)

    with pytest.raises(StartError, match="cannot be opened"):
        Store(tmp_path)


def test_a_state_whose_own_record_is_damaged_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with lmdb.open(str(tmp_path), max_dbs=300, map_size=2**30) as environment:
        meta = environment.open_db(b"256")
        with environment.begin(write=True) as txn:
            txn.put(b"applied", b"\x01nonsense", db=meta)

    with pytest.raises(StartError, match="damaged"):
        Store(tmp_path)


def test_a_state_in_which_damage_was_found_is_not_opened_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.quarantine("table 3, key 62: 9 bytes fail their CRC")
    store.close()

    for _ in range(2):
        with pytest.raises(DamagedStateError, match="table 3, key 62"):
            Store(tmp_path)


def test_a_disk_without_room_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> lmdb.Environment:
        raise lmdb.DiskError(f"{path}: No space left on device")

    monkeypatch.setattr("tq_cluster.storage.store.open_environment", full)

    with pytest.raises(StartError, match="No space left") as caught:
        Store(tmp_path)

    assert not isinstance(caught.value, DamagedStateError)
