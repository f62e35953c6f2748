"""A range of the state has the same hash on every node, and another hash if a row differs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tq.internal.v1 import log_pb2
from tq_cluster.storage.hashing import HashedRange
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.storage.rows import CorruptRowError, seal
from tq_cluster.storage.store import Store

ROWS = [(table, b"k%d" % number) for table in (0, 7, 255) for number in range(5)]


@pytest.fixture(params=["lmdb", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store | MemoryStore]:
    made = Store(tmp_path / "state") if request.param == "lmdb" else MemoryStore()
    yield made
    made.close()


def apply(
    store: Store | MemoryStore,
    *rows: tuple[int, bytes, bytes],
    hashing: log_pb2.HashRange | None = None,
) -> None:
    changes = [
        log_pb2.TableChanges(table=table, put_keys=[key], put_values=[sealed])
        for table, key, sealed in rows
    ]
    index = store.applied.index
    entry = log_pb2.Entry(
        format=1, decided_term=1, base_index=index, tables=changes, hash_range=hashing
    )
    assert store.apply(index + 1, 1, entry.SerializeToString())


def filled(store: Store | MemoryStore, *, differing: bytes = b"") -> list[HashedRange]:
    """Fill it, and have it note what it hashes."""
    hashed: list[HashedRange] = []
    store.on_hashed = hashed.append
    for table, key in ROWS:
        apply(store, (table, key, seal(table, key, b"value" + differing)))
    return hashed


def asked(
    table: int = 0, from_key: bytes = b"", *, rows_max: int = 100, bytes_max: int = 1 << 20
) -> log_pb2.HashRange:
    return log_pb2.HashRange(table=table, from_key=from_key, rows_max=rows_max, bytes_max=bytes_max)


def test_a_range_goes_on_over_tables_and_ends_with_the_state(store: Store | MemoryStore) -> None:
    hashed = filled(store)

    apply(store, hashing=asked())

    [found] = hashed
    assert (found.index, found.rows, found.next) == (store.applied.index, len(ROWS), None)
    assert store.row_count() == len(ROWS)


@pytest.mark.parametrize("bound", [{"rows_max": 4}, {"bytes_max": 40}])
def test_ranges_one_after_the_other_cover_every_row_once(
    store: Store | MemoryStore, bound: dict[str, int]
) -> None:
    hashed = filled(store)
    place: tuple[int, bytes] | None = (0, b"")

    while place is not None:
        apply(store, hashing=asked(place[0], place[1], **bound))
        place = hashed[-1].next

    assert sum(found.rows for found in hashed) == len(ROWS)
    assert len(hashed) > 2


def test_the_entrys_own_changes_are_in_the_hash(store: Store | MemoryStore) -> None:
    hashed = filled(store)
    apply(store, hashing=asked())

    apply(store, (7, b"k9", seal(7, b"k9", b"")), hashing=asked())

    assert hashed[1].rows == hashed[0].rows + 1


def test_both_stores_come_to_the_same_and_another_state_to_something_else(tmp_path: Path) -> None:
    stores: list[tuple[Store | MemoryStore, bytes]] = [
        (Store(tmp_path / "a"), b""),
        (MemoryStore(), b""),
        (MemoryStore(), b"!"),
    ]
    digests = []
    for store, differing in stores:
        hashed = filled(store, differing=differing)
        apply(store, hashing=asked())
        digests.append(hashed[0].digest)
        store.close()

    assert digests[0] == digests[1] != digests[2]


def test_a_row_that_is_not_what_was_written_ends_the_node(store: Store | MemoryStore) -> None:
    filled(store)
    apply(store, (7, b"k3", seal(7, b"another key", b"value")))

    with pytest.raises(CorruptRowError, match="table 7"):
        apply(store, hashing=asked())


def test_an_entry_that_changes_nothing_here_hashes_nothing(store: Store | MemoryStore) -> None:
    hashed = filled(store)
    entry = log_pb2.Entry(format=1, decided_term=9, base_index=0, hash_range=asked())

    assert not store.apply(store.applied.index + 1, 1, entry.SerializeToString())

    assert hashed == []
