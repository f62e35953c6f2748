"""Both stores against plain dictionaries, over random entries, decisions, commits and crashes."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tq.internal.v1 import log_pb2
from tq_cluster.storage.memory import Image, MemoryStore
from tq_cluster.storage.store import Store

TABLES = (1, 2, 255)
Model = dict[int, dict[bytes, bytes]]
Write = tuple[int, bytes, bytes | None]

keys = st.binary(min_size=1, max_size=3) | st.sampled_from([b"k" * 511, b"\xff", b"\x00"])
values = st.binary(max_size=20) | st.integers(1, 70_000).map(bytes)
writes = st.lists(st.tuples(st.sampled_from(TABLES), keys, values | st.none()), max_size=8)


class StoreMachine(RuleBasedStateMachine):
    """Does the same to LMDB, to the store in memory and to dictionaries."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.image = Image()
        self.stores: tuple[Store, MemoryStore] = self.opened()
        self.model: Model = {table: {} for table in TABLES}
        self.committed = copy.deepcopy(self.model)

    def opened(self) -> tuple[Store, MemoryStore]:
        return Store(Path(self.folder.name)), MemoryStore(self.image)

    def teardown(self) -> None:
        self.stores[0].close()
        self.folder.cleanup()

    @rule(written=writes, propose=st.booleans(), stray=st.booleans())
    def decide(self, written: list[Write], propose: bool, stray: bool) -> None:
        decided = [self.decided(store, written) for store in self.stores]
        assert decided[0] == decided[1]
        if not propose:
            return
        base = self.stores[0].applied.index
        entry = log_pb2.Entry(
            format=1, decided_term=1, base_index=base - stray, now_ms=1, tables=decided[0]
        )
        for store in self.stores:
            assert store.apply(base + 1, 1, entry.SerializeToString()) is not stray
        if not stray:
            write(self.model, written)

    def decided(
        self, store: Store | MemoryStore, written: list[Write]
    ) -> list[log_pb2.TableChanges]:
        expected = copy.deepcopy(self.model)
        workspace = store.workspace()
        for table, key, value in written:
            if value is None:
                workspace.delete(table, key)
            else:
                workspace.put(table, key, value)
            write(expected, [(table, key, value)])
            assert workspace.get(table, key) == value
        for table in TABLES:
            shown = dict(workspace.scan(table, b"", b"\xff" * 512, limit=999))
            assert shown == expected[table]
        return workspace.tables()

    @rule(start=keys, stop=keys, limit=st.integers(0, 5), reverse=st.booleans())
    def scan(self, start: bytes, stop: bytes, limit: int, reverse: bool) -> None:
        for table, model in self.model.items():
            inside = [row for row in sorted(model.items()) if start <= row[0] < stop]
            expected = (inside[::-1] if reverse else inside)[:limit]
            for store in self.stores:
                rows = store.view().scan(table, start, stop, limit=limit, reverse=reverse)
                assert list(rows) == expected

    @rule()
    def commit(self) -> None:
        for store in self.stores:
            store.commit()
        self.committed = copy.deepcopy(self.model)

    @rule()
    def crash(self) -> None:
        self.stores[0].close()
        self.stores = self.opened()
        self.model = copy.deepcopy(self.committed)

    @invariant()
    def both_agree_on_how_far_they_are(self) -> None:
        real, modelled = self.stores
        assert real.applied == modelled.applied
        assert real.durable == modelled.durable

    @invariant()
    def what_is_committed_is_shown_to_others(self) -> None:
        for store in self.stores:
            with store.committed_view() as view:
                assert view.applied == store.durable
                for table, model in self.committed.items():
                    assert dict(view.scan(table, b"", b"\xff" * 512, limit=999)) == model


def write(model: Model, written: list[Write]) -> None:
    for table, key, value in written:
        if value is None:
            model[table].pop(key, None)
        else:
            model[table][key] = value


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
