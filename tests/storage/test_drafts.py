"""A draft shows what a transaction nested in the state's would show, and reads no more."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.test_store import T, apply
from tq_cluster.storage.drafts import Draft
from tq_cluster.storage.memory import MemoryStore
from tq_cluster.storage.rows import unseal
from tq_cluster.storage.store import Store

keys = st.sampled_from([bytes([97 + n // 6, 97 + n % 6]) for n in range(30)])
values = st.binary(max_size=4)
Row = tuple[bytes, bytes]

writes = st.tuples(st.sampled_from(["put", "delete"]), keys, values)
scans = st.tuples(st.just("scan"), keys, keys, st.integers(0, 40), st.booleans())
begun = st.tuples(st.just("begin"), keys, keys, st.integers(1, 40), st.booleans())
steps = st.lists(
    writes
    | writes
    | scans
    | begun
    | st.tuples(st.just("next"), st.integers(1, 5))
    | st.tuples(st.just("get"), keys),
    max_size=60,
)


class Nested:
    """The semantics that a draft has to keep: rows written into a transaction, read by cursors.

    LMDB's own cursors follow what is written under them, so a scan here is one look after the other
    for the next row.
    """

    def __init__(self, folder: str, stored: dict[bytes, bytes]) -> None:
        self.environment = lmdb.open(folder, max_dbs=1, map_size=1 << 20)
        table = self.environment.open_db(b"t")
        self.txn = self.environment.begin(write=True, db=table)
        for key, value in stored.items():
            self.txn.put(key, value or b"\0")
            self.txn.put(key, value)
        self.child = self.environment.begin(write=True, parent=self.txn, db=table)

    def scan(self, start: bytes, stop: bytes, limit: int, *, reverse: bool) -> Iterator[Row]:
        left = stop if reverse else start
        for _ in range(limit):
            with self.child.cursor() as cursor:
                if reverse:
                    found = cursor.prev() if cursor.set_range(left) else cursor.last()
                else:
                    found = cursor.set_range(left)
                key, value = cursor.key(), cursor.value()
            if not found or (key < start if reverse else key >= stop):
                return
            left = key if reverse else key + b"\0"
            yield key, value

    def close(self) -> None:
        self.child.abort()
        self.txn.abort()
        self.environment.close()


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(stored=st.dictionaries(keys, values, max_size=25), steps=steps)
def test_a_draft_shows_what_a_nested_transaction_would(
    stored: dict[bytes, bytes], steps: list[tuple[object, ...]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = MemoryStore()
        apply(store, stored)
        draft, nested = store.workspace(), Nested(folder, stored)
        open_scans: tuple[Iterator[Row], Iterator[Row]] = iter(()), iter(())
        for step in steps:
            match step:
                case ("put", bytes(key), bytes(value)):
                    draft.put(T, key, value)
                    nested.child.put(key, value)
                case ("delete", bytes(key), _):
                    draft.delete(T, key)
                    nested.child.delete(key)
                case ("get", bytes(key)):
                    assert draft.get(T, key) == nested.child.get(key)
                case ("scan", bytes(start), bytes(stop), int(limit), bool(reverse)):
                    assert list(draft.scan(T, start, stop, limit=limit, reverse=reverse)) == list(
                        nested.scan(start, stop, limit, reverse=reverse)
                    )
                case ("begin", bytes(start), bytes(stop), int(limit), bool(reverse)):
                    open_scans = (
                        draft.scan(T, start, stop, limit=limit, reverse=reverse),
                        nested.scan(start, stop, limit, reverse=reverse),
                    )
                case ("next", int(count)):
                    for _ in range(count):
                        assert next(open_scans[0], None) == next(open_scans[1], None)
        everything = dict(nested.scan(b"a", b"zz", 99, reverse=False))
        nested.close()
        assert dict(draft.scan(T, b"a", b"zz", limit=99)) == everything
        assert after(stored, draft) == everything


def after(stored: dict[bytes, bytes], draft: Draft) -> dict[bytes, bytes]:
    """The rows once the draft's changes have been applied."""
    rows = dict(stored)
    for table in draft.tables():
        assert list(table.put_keys) == sorted(table.put_keys)
        assert list(table.deleted_keys) == sorted(table.deleted_keys)
        for key, sealed in zip(table.put_keys, table.put_values, strict=True):
            rows[key] = unseal(T, key, sealed)
        for key in table.deleted_keys:
            rows.pop(key, None)
    return rows


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_taking_from_the_front_again_and_again_reads_each_row_once(
    kind: str, tmp_path: Path
) -> None:
    store = MemoryStore() if kind == "memory" else Store(tmp_path / "state")
    apply(store, {b"%04d" % n: b"" for n in range(600)})
    draft = store.workspace()
    for number in range(600, 900):
        draft.put(T, b"%04d" % number, b"")

    taken = []
    for _ in range(900):
        [(key, _)] = draft.scan(T, b"0", b"9999", limit=1)
        taken.append(key)
        draft.delete(T, key)

    assert taken == [b"%04d" % n for n in range(900)]
    assert list(draft.scan(T, b"0", b"9999", limit=1)) == []
    # The front of what is stored, once for each, and what had been passed since it was noted.
    assert draft.rows_read < 10 * 900
    store.close()


def test_what_a_draft_has_cost_is_counted_in_rows_and_bytes() -> None:
    store = MemoryStore()
    apply(store, {b"a": b"1", b"b": b"2", b"c": b"3"})
    draft = store.workspace()

    draft.get(T, b"a")
    draft.get(T, b"nowhere")
    assert draft.rows_read == 2
    list(draft.scan(T, b"a", b"z", limit=2))
    assert draft.rows_read == 4
    draft.put(T, b"a", b"123")
    draft.put(T, b"a", b"1")
    draft.delete(T, b"b")
    assert (draft.rows_written, draft.bytes_written) == (3, 4 + 2 + 1)
