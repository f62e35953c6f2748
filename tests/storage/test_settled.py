"""The power goes while a commit is on its way to the disk: page by page, any of it may be there."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.storage.test_store_disk import T, put
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import DiskError, FatalError
from tq_cluster.storage.copying import find_damage
from tq_cluster.storage.settled import SETTLED_FILE, read_settled, undo_unsettled, write_settled
from tq_cluster.storage.store import Store

PAGE_BYTES = 4_096
STEPS = 40
ROWS = 60


class Machine:
    """A store on a disk that has what was synced, and of the rest what chance kept."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self._draw = draw
        self._path = folder
        self._synced = b""
        self._states: dict[AppliedAt, dict[bytes, bytes]] = {AppliedAt(1, 0): {}}
        self.store = Store(folder)
        self._note()

    @property
    def _data(self) -> Path:
        return self._path / "data.mdb"

    def _note(self) -> None:
        self._synced = self._data.read_bytes()

    def put(self) -> None:
        """Change a few rows; the many versions of each have LMDB use its pages again."""
        numbers = self._draw.sample(range(ROWS), self._draw.randint(1, 20))
        size = self._draw.choice((20, 200, 3_000))
        rows = {b"%03d" % number: self._draw.randbytes(size) for number in numbers}
        before = self._states[self.store.applied]
        put(self.store, rows)
        self._states[self.store.applied] = {**before, **rows}

    def begin(self) -> None:
        if not self.store.committing:
            self.store.begin_commit()

    def sync(self) -> None:
        """The thread is through, and the loop hears of it."""
        self.store.sync_commit()
        self._note()
        self.store.end_commit()

    def commit(self) -> None:
        self.store.commit()
        self._note()

    def sync_unheard(self) -> None:
        """The thread is through; the loop never hears of it."""
        self.store.sync_commit()
        self._note()

    def commit_and_lose_power(self) -> None:
        """The power goes when all is written and the last sync has not returned."""
        written = False
        write = self.store._write

        def note_write() -> None:
            nonlocal written
            write()
            written = True

        def sync(_file: int) -> None:
            if written:
                raise OSError(5, "Input/output error")
            self._note()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.store, "_write", note_write)
            patch.setattr(os, "fdatasync", sync)
            with pytest.raises(DiskError):
                self.store.commit()
        self.lose_power()

    def lose_power(self) -> None:
        """What comes back is what was there at some commit, that of ``durable`` or a later one."""
        durable = self.store.durable
        self.store.close()
        written = self._data.read_bytes()
        torn = bytearray(max(len(written), len(self._synced)))
        for page in range(0, len(torn), PAGE_BYTES):
            source = written if self._draw.random() < 0.5 else self._synced
            kept = source[page : page + PAGE_BYTES]
            torn[page : page + len(kept)] = kept
        self._data.write_bytes(torn)
        (self._path / "lock.mdb").unlink()
        self.store = Store(self._path)
        assert self.store.applied.index >= durable.index
        rows = self.store.view().scan(T, b"", b"\xff", limit=2 * ROWS)
        assert dict(rows) == self._states[self.store.applied]
        self._note()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_power_cut_keeps_of_a_commit_the_state_is_a_whole_one(
    tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    machine = Machine(tmp_path / "state", draw)
    steps = [
        *[machine.put] * 8,
        *[machine.begin] * 5,
        *[machine.sync] * 4,
        machine.sync_unheard,
        machine.commit,
        machine.commit_and_lose_power,
        machine.lose_power,
    ]
    for _ in range(STEPS):
        draw.choice(steps)()
    machine.lose_power()
    machine.commit()
    machine.store.close()
    assert find_damage(tmp_path / "state" / "data.mdb") == ""


def test_nothing_is_said_to_be_durable_before_another_commit_is_on_the_disk(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    durable = []
    for key in (b"a", b"b", b"c"):
        put(store, {key: b"row"})
        store.begin_commit()
        store.sync_commit()
        durable.append(store.durable.index)
        store.end_commit()

    assert durable == [1, 1, 2]
    assert store.durable.index == 3
    assert store.commit_due(0.0) is store.commit_due(0.1) is False
    assert store.commit_due(0.3)  # for the sake of the one before
    store.close()


def test_one_commit_is_under_way_at_a_time_unless_it_is_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, {b"a": b"row"})
    store.begin_commit()
    put(store, {b"b": b"row"})
    with pytest.raises(FatalError, match="under way"):
        store.begin_commit()

    store.commit()
    store.end_commit()  # of the first: void

    assert store.durable == store.applied
    store.close()


def test_what_was_made_durable_at_once_is_never_undone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in (b"a", b"b", b"c"):
        put(store, {key: b"row"})
        store.commit()
        store.close()
        store = Store(tmp_path)
        assert store.view().get(T, key) == b"row"
    store.close()


def test_a_state_of_the_first_version_is_taken_as_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, {b"a": b"row"})
    store.commit()
    store.close()
    (tmp_path / SETTLED_FILE).unlink()

    assert not undo_unsettled(tmp_path, tmp_path / "data.mdb")

    store = Store(tmp_path)
    put(store, {b"b": b"row"})
    store.begin_commit()
    store.close()
    store = Store(tmp_path)
    assert [store.view().get(T, key) for key in (b"a", b"b")] == [b"row", None]
    store.close()


@pytest.mark.parametrize("kept", [0, 100, 512, 700, 1_000])
def test_a_note_that_was_cut_short_leaves_the_one_before(tmp_path: Path, kept: int) -> None:
    assert read_settled(tmp_path) is None
    write_settled(tmp_path, 7)
    write_settled(tmp_path, 8)
    assert read_settled(tmp_path) == 8
    file = tmp_path / SETTLED_FILE
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)
    assert read_settled(tmp_path) == 7
    os.truncate(file, kept)

    assert read_settled(tmp_path) == (7 if kept > 512 else None)


def test_a_file_that_is_no_state_is_left_alone(tmp_path: Path) -> None:
    write_settled(tmp_path, 1)
    for content in (b"", b"not a state" * 1_000):
        (tmp_path / "data.mdb").write_bytes(content)

        assert not undo_unsettled(tmp_path, tmp_path / "data.mdb")

        assert (tmp_path / "data.mdb").read_bytes() == content
