"""A state that ends the process which reads it is found to be damaged by the next."""

from __future__ import annotations

import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.test_store_disk import ROOT, T, put
from tq_cluster.errors import FatalError
from tq_cluster.raft.startup import NodeData, open_data
from tq_cluster.raft.syncer import InlineSyncer
from tq_cluster.storage import copying
from tq_cluster.storage.copying import find_damage
from tq_cluster.storage.crash import CRASH_FILE
from tq_cluster.storage.store import QUARANTINED, Store

ROWS = {b"row %03d" % number: b"a row" * 20 for number in range(100)}
KEY = b"row 050"
PAGE_BYTES, HEAD_BYTES, LOWER_AT = 4_096, 16, 12
"""After its head a page has two bytes for each row, where that is; the head says where they end."""
PROCESS = """
import random, sys
from pathlib import Path
from tq_cluster.raft.startup import open_data
from tq_cluster.raft.syncer import InlineSyncer

data = open_data(
    Path(sys.argv[1]), node_id="n1", draw=random.Random(1), syncer=InlineSyncer(),
    on_fatal=print, record_crashes=True,
)
print("open", flush=True)
print(data.store.view().get(7, b"row 050"))
"""


def opened(path: Path) -> NodeData:
    def fatal(error: FatalError) -> None:
        raise error

    draw = random.Random(1)
    return open_data(path, node_id="n1", draw=draw, syncer=InlineSyncer(), on_fatal=fatal)


def close(data: NodeData) -> None:
    data.journal.close()
    data.disk.close()
    data.store.close()
    data.directory.release()


def make_deadly(file: Path, key: bytes) -> None:
    """Have every page with ``key`` on it say that its rows lie 64 KiB after it."""
    content = bytearray(file.read_bytes())
    # LMDB leaves older copies of a row behind: which one counts is not to be seen.
    for page in range(0, len(content), PAGE_BYTES):
        [lower] = struct.unpack_from("<H", content, page + LOWER_AT)
        if lower > HEAD_BYTES and content.find(key, page + lower, page + PAGE_BYTES) >= 0:
            content[page + HEAD_BYTES : page + lower] = b"\xff" * (lower - HEAD_BYTES)
    file.write_bytes(content)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A node's data directory, closed, with 100 rows in its state."""
    data = opened(tmp_path)
    put(data.store, ROWS)
    data.journal.add(b"", 2, 1)
    data.store.commit()
    close(data)
    return tmp_path


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROCESS, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_state_that_ends_its_process_is_set_aside_by_the_next(directory: Path) -> None:
    make_deadly(directory / "state-1" / "data.mdb", KEY)

    first = run(directory)
    told = (directory / CRASH_FILE).read_text()
    second = run(directory)

    assert (first.returncode, first.stdout) == (-signal.SIGBUS, "open\n")
    assert "Bus error" in told
    assert (second.returncode, second.stdout) == (0, "open\nNone\n")
    quarantined = (directory / "damaged-state-1" / QUARANTINED).read_text()
    assert "reading it ends the process with SIGBUS" in quarantined
    assert not (directory / CRASH_FILE).read_text()


def test_a_crash_over_a_sound_state_costs_nothing(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / CRASH_FILE).write_text("Fatal Python error: Segmentation fault\n")

    data = opened(directory)

    [line] = [record for record in caplog.records if record.message == "the last run failed"]
    assert (vars(line)["why"], vars(line)["damage"]) == (
        "Fatal Python error: Segmentation fault",
        "none",
    )
    assert not data.set_aside
    assert data.store.view().get(T, KEY) == ROWS[KEY]
    close(data)
    assert not (directory / CRASH_FILE).read_text()


def test_a_state_whose_reading_fails_for_another_reason_is_not_condemned(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / CRASH_FILE).write_text("Fatal Python error: Aborted\n")
    monkeypatch.setattr(copying, "_READ_ALL", "import os; os.kill(os.getpid(), 9)")

    data = opened(directory)

    assert not data.set_aside
    close(data)


def test_a_machine_that_cannot_read_a_state_is_no_damage(directory: Path) -> None:
    """Here: LMDB wants more addresses than the process may have."""
    (directory / CRASH_FILE).write_text("Fatal Python error: Aborted\n")

    ended = subprocess.run(
        ["/bin/bash", "-c", f"ulimit -v 2000000; exec {sys.executable} -c '{PROCESS}' {directory}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "nothing is known to be wrong with it" in ended.stderr
    assert not list(directory.glob(f"*/{QUARANTINED}"))


@pytest.mark.parametrize("row", [b"row 000", b"row 050", b"row 099"])
def test_a_row_that_is_not_what_was_written_is_found(tmp_path: Path, row: bytes) -> None:
    store = Store(tmp_path)
    put(store, {key: b"of %s" % key for key in ROWS})
    store.commit()
    store.close()
    file = tmp_path / "data.mdb"
    assert find_damage(file) == ""
    # Every copy: a page that was split may keep one in the space that it no longer uses.
    written = b"of %s" % row
    file.write_bytes(file.read_bytes().replace(written, b"k" + written[1:]))

    assert find_damage(file) == f"table {T}, key {row.hex()}: {len(row) + 8} bytes fail their CRC"
