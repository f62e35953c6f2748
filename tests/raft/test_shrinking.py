"""Disk space that a burst took is given back, and nothing else changes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tq.internal.v1 import log_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import FatalError
from tq_cluster.raft.shrinking import Shrinking
from tq_cluster.raft.startup import NodeData, open_data
from tq_cluster.raft.syncer import InlineSyncer
from tq_cluster.storage.rows import seal

TABLE = 7
BURST = 400


def fatal(error: FatalError) -> None:
    raise error


class Bench:
    """A node's data with a burst behind it, and entries that go on coming."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = self.opened()
        for number in range(BURST):
            self.put(b"%06d" % number, random.Random(number).randbytes(10_000))
        for number in range(10, BURST):
            self.delete(b"%06d" % number)
        self.data.store.commit()
        self.data.store.commit()  # what the last one freed may be used only after another

    def opened(self) -> NodeData:
        return open_data(
            self.path,
            node_id="n1",
            draw=random.Random(1),
            syncer=InlineSyncer(),
            on_fatal=fatal,
        )

    def close(self) -> None:
        self.data.journal.close()
        self.data.disk.close()
        self.data.store.close()
        self.data.directory.release()

    def put(self, key: bytes, value: bytes) -> None:
        sealed = seal(TABLE, key, value)
        self.enter(log_pb2.TableChanges(table=TABLE, put_keys=[key], put_values=[sealed]))

    def delete(self, key: bytes) -> None:
        self.enter(log_pb2.TableChanges(table=TABLE, deleted_keys=[key]))

    def enter(self, changes: log_pb2.TableChanges) -> None:
        """One more entry, on disk and applied."""
        applied = self.data.store.applied
        entry = log_pb2.Entry(
            format=1, decided_term=1, base_index=applied.index, tables=[changes]
        ).SerializeToString()
        self.data.journal.add(entry, applied.index + 1, 1)
        self.data.journal.sync_now()
        assert self.data.store.apply(applied.index + 1, 1, entry)

    def rows(self) -> dict[bytes, bytes]:
        return dict(self.data.store.view().scan(TABLE, b"", b"\xff", limit=10_000))

    def shrinking(self) -> Shrinking:
        return Shrinking(
            store=self.data.store,
            states=self.data.states,
            journal=self.data.journal,
            loop=asyncio.get_running_loop(),
            worth_bytes=1 << 20,
            every_s=0.0,
        )

    async def ticked(self, shrinking: Shrinking, *, until_moved_from: Path) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.data.store.path == until_moved_from:
                shrinking.tick(may_begin=True)
                await asyncio.sleep(0.001)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


async def test_a_state_that_is_mostly_free_pages_gets_smaller_while_entries_go_on_coming(
    bench: Bench,
) -> None:
    before_bytes, before = bench.data.store.used_bytes(), bench.data.store.path
    shrinking = bench.shrinking()

    shrinking.tick(may_begin=True)
    bench.put(b"late", b"came while it was copied")
    bench.delete(b"000003")
    rows = bench.rows()
    await bench.ticked(shrinking, until_moved_from=before)

    assert bench.data.store.used_bytes() < before_bytes / 4
    assert bench.rows() == rows
    assert (rows[b"late"], b"000003" in rows) == (b"came while it was copied", False)
    bench.put(b"after", b"it goes on")
    bench.data.store.commit()
    rows, applied = bench.rows(), bench.data.store.applied
    bench.close()
    bench.data = bench.opened()
    assert (bench.rows(), bench.data.store.applied) == (rows, applied)


@pytest.mark.slow
async def test_a_state_without_much_to_give_back_is_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(BURST):
        bench.put(b"%06d" % number, random.Random(number).randbytes(10_000))
    bench.data.store.commit()
    before = bench.data.store.path
    shrinking = bench.shrinking()

    for _ in range(20):
        shrinking.tick(may_begin=True)
        await asyncio.sleep(0.001)

    assert shrinking._copying is None
    assert bench.data.store.path == before
    bench.close()


async def test_a_crash_after_the_copy_has_taken_over_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bench.data.store.path
    rows, applied = bench.rows(), bench.data.store.applied

    def crash(path: Path) -> None:
        raise RuntimeError("the power is gone")

    monkeypatch.setattr(bench.data.store, "move_to", crash)
    with pytest.raises(RuntimeError, match="power"):
        await bench.ticked(bench.shrinking(), until_moved_from=before)
    bench.close()
    bench.data = bench.opened()

    assert bench.data.store.path != before
    assert (bench.rows(), bench.data.store.applied) == (rows, applied)
    assert not before.exists()


async def test_a_copy_of_a_state_that_a_snapshot_has_replaced_is_thrown_away(bench: Bench) -> None:
    shrinking = bench.shrinking()
    shrinking.tick(may_begin=True)
    newer = bench.data.states.next_path()
    bench.data.states.switch(newer, AppliedAt(900, 1))
    bench.data.store.move_to(newer)

    async with asyncio.timeout(PATIENCE_S):
        while shrinking._copying is not None or shrinking._copy is not None:
            shrinking.tick(may_begin=False)
            await asyncio.sleep(0.001)

    assert bench.data.store.path == newer
    states = [path.name for path in bench.path.glob("state-*")]
    assert len(states) == 2, "the replaced one is for the snapshot's installer to sweep"
    bench.data.journal.reset(900, 1)


async def test_a_copy_that_the_journal_has_left_behind_is_thrown_away(bench: Bench) -> None:
    shrinking = bench.shrinking()
    shrinking.tick(may_begin=True)
    before = bench.data.store.path
    rows = bench.rows()
    async with asyncio.timeout(PATIENCE_S):
        while shrinking._copying is not None and not shrinking._copying.done():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    bench.put(b"late", b"1")
    bench.put(b"later", b"2")
    bench.data.journal.reset(bench.data.store.applied.index, 1)

    for _ in range(3):
        shrinking.tick(may_begin=False)

    assert shrinking._copy is None
    assert bench.data.store.path == before
    assert bench.rows() == {**rows, b"late": b"1", b"later": b"2"}
