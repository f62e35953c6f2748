"""The state on a disk that fills up, rots, or loses its process in the middle of a write."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tq.internal.v1 import log_pb2
from tq_cluster.errors import FatalError
from tq_cluster.raft.startup import NodeData, open_data
from tq_cluster.raft.syncer import InlineSyncer
from tq_cluster.storage.drafts import Draft
from tq_cluster.storage.rows import CorruptRowError, seal
from tq_cluster.storage.store import Store

ROOT = Path(__file__).resolve().parents[2]
T = 7


def put(store: Store, rows: dict[bytes, bytes]) -> None:
    changes = log_pb2.TableChanges(
        table=T, put_keys=list(rows), put_values=[seal(T, *row) for row in rows.items()]
    )
    base = store.applied.index
    entry = log_pb2.Entry(format=1, decided_term=1, base_index=base, tables=[changes])
    assert store.apply(base + 1, 1, entry.SerializeToString())


def opened(path: Path) -> NodeData:
    def fatal(error: FatalError) -> None:
        raise error

    draw = random.Random(1)
    return open_data(path, node_id="n1", draw=draw, syncer=InlineSyncer(), on_fatal=fatal)


WRITER = """
import sys
from pathlib import Path
from tests.storage.test_store_disk import put
from tq_cluster.storage.store import Store

store = Store(Path(sys.argv[1]))
while True:
    number = store.applied.index
    put(store, {b"%d" % (number % 97): b"%d" % number * 50, b"last": b"%d" % number})
    if number % 3 == 0:
        store.commit()
        print(store.durable.index, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 40])
def test_a_sigkill_leaves_a_commit_and_all_of_it(tmp_path: Path, lines: int) -> None:
    reported = [1]
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            reported += [int(process.stdout.readline()) for _ in range(lines)]
            os.kill(process.pid, signal.SIGKILL)
            reported += [int(line) for line in process.stdout if line.endswith("\n")]

        store = Store(tmp_path)
        last = store.applied.index - 1
        assert store.applied.index >= reported[-1]
        rows = dict(store.view().scan(T, b"", b"z", limit=1_000))
        expected = {b"%d" % (number % 97): b"%d" % number * 50 for number in range(1, last + 1)}
        assert rows == expected | {b"last": b"%d" % last}
        store.close()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.storage.test_store_disk import opened, put
from tq_cluster.errors import FatalError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
data = opened(Path(sys.argv[1]))
print(data.store.applied.index, data.journal.last_index)
put(data.store, {b"k": b"v"})
try:
    data.store.commit()
except FatalError as error:
    print(error)
"""


def test_a_node_starts_on_a_full_disk_and_ends_at_the_first_write(tmp_path: Path) -> None:
    data = opened(tmp_path)
    for index in (2, 3):
        data.journal.add(b"", index, 1)
        data.store.apply(index, 1, b"")
    data.journal.close()
    data.store.commit()
    data.store.close()
    data.directory.release()

    full = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )

    assert full.stdout.splitlines()[0] == "3 3"
    assert "cannot be committed" in full.stdout


READER = """
import os, shutil, sys
from pathlib import Path
from tq_cluster.errors import TqError
from tq_cluster.storage.store import Store

whole, positions = Path(sys.argv[1]), map(int, sys.argv[2:])


def read(folder):
    try:
        store = Store(folder)
        rows = list(store.view().scan(7, b"", b"z", limit=10_000))
    except TqError as error:
        return "refused"
    return f"read {store.applied.index} {hash(tuple(rows))}"


for at in positions:
    damaged = whole.with_name(f"damaged at {at}")
    shutil.copytree(whole, damaged)
    with (damaged / "data.mdb").open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))
    # In a process of its own: what LMDB makes of its own pages may end it.
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert status == 0 or os.WIFSIGNALED(status), f"{at}: {status}"
    else:
        print(read(damaged), flush=True)
        os._exit(0)
    shutil.rmtree(damaged)
"""


@pytest.mark.slow
def test_flipped_bits_are_never_read_as_something_else(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    store = Store(whole)
    put(store, {b"%03d" % number: b"%d" % number * 30 for number in range(200)})
    store.commit()
    store.close()
    content = (whole / "data.mdb").read_bytes()
    in_rows = [content.find(b"%d" % number * 30) + 10 for number in range(0, 200, 10)]
    anywhere = range(8192, len(content), len(content) // 150)

    reader = subprocess.run(
        [sys.executable, "-c", READER, str(whole), *map(str, [*in_rows, *anywhere])],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )

    outcomes = reader.stdout.splitlines()
    # Some bytes belong to nothing: LMDB leaves old copies of rows behind.
    assert outcomes[: len(in_rows)].count("refused") > len(in_rows) / 2
    assert len(set(outcomes) - {"refused"}) == 1


PAGE_BYTES, FLAGS_AT, LEAF = 4_096, 10, 0x02
"""Where LMDB says what a page is, and what it says of one that holds rows."""
LOWER_AT, PLACES_AT, KEY_BYTES_AT, KEY_AT = 12, 16, 6, 8
"""Where the places of its rows end, and begin; where a row has its key's length, and its key."""


def keys_in(page: bytes) -> Iterator[bytes]:
    """Yield the keys of a leaf; what else it has in it is what the memory held before."""
    (places_end,) = struct.unpack_from("<H", page, LOWER_AT)
    for (at,) in struct.iter_unpack("<H", page[PLACES_AT:places_end]):
        (length,) = struct.unpack_from("<H", page, at + KEY_BYTES_AT)
        yield page[at + KEY_AT : at + KEY_AT + length]


@pytest.fixture
def with_a_rotten_page(tmp_path: Path) -> Iterator[Store]:
    """A state in which the page that holds row 250 says that it is of no kind that there is."""
    path = tmp_path / "state"
    store = Store(path)
    put(store, {b"row %03d" % number: b"a row that will rot" for number in range(500)})
    store.commit()
    store.close()
    content = bytearray((path / "data.mdb").read_bytes())
    rotten = [
        at
        for at in range(0, len(content), PAGE_BYTES)
        if content[at + FLAGS_AT] == LEAF
        and b"row 250" in keys_in(bytes(content[at : at + PAGE_BYTES]))
    ]
    for at in rotten:
        content[at + FLAGS_AT] ^= 0x03
    assert rotten
    (path / "data.mdb").write_bytes(content)
    store = Store(path)
    yield store
    store.close()


def test_damage_that_lmdb_meets_while_it_applies_is_told_from_a_disk_that_fails(
    with_a_rotten_page: Store,
) -> None:
    with pytest.raises(CorruptRowError, match="entry 3 of term 1 meets damage: mdb_"):
        put(with_a_rotten_page, {b"row 250": b"new"})


@pytest.mark.parametrize(
    "read",
    [
        lambda draft: draft.get(T, b"row 250"),
        lambda draft: list(draft.scan(T, b"row 240", b"row 260", limit=30)),
        lambda draft: list(draft.scan(T, b"row 240", b"row 260", limit=30, reverse=True)),
    ],
)
def test_damage_that_lmdb_meets_while_it_decides_is_told_as_such(
    with_a_rotten_page: Store, read: Callable[[Draft], object]
) -> None:
    draft = with_a_rotten_page.workspace()
    draft.delete(T, b"row 249")

    with pytest.raises(CorruptRowError, match="table 7 cannot be read: mdb_"):
        read(draft)


OPENER = """
import sys
from pathlib import Path
from tq_cluster.errors import StartError
from tq_cluster.storage.rows import CorruptRowError
from tq_cluster.storage.store import Store

try:
    store = Store(Path(sys.argv[1]))
    for number in range(2_000):
        store.view().get(7, b"%d" % number)
except (StartError, CorruptRowError) as error:
    print(error)
"""


@pytest.mark.parametrize("pages", [2, 3, 20, 200])
def test_a_state_that_was_cut_short_is_said_to_be_damaged_and_kills_no_process(
    tmp_path: Path, pages: int
) -> None:
    store = Store(tmp_path)
    put(store, {b"%d" % number: b"row" * 300 for number in range(2_000)})
    store.commit()
    store.close()
    os.truncate(tmp_path / "data.mdb", pages * os.sysconf("SC_PAGE_SIZE"))

    ended = subprocess.run(
        [sys.executable, "-c", OPENER, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "move its data directory away" in ended.stdout
