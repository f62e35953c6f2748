"""A state has the one format that every version reads, even if the environment asks for another."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from tests.storage.test_store_disk import ROOT
from tq_cluster.errors import DamagedStateError, StartError
from tq_cluster.storage.environment import DATA_FILE, check_state
from tq_cluster.storage.store import Store

NEWER = {**os.environ, "LMDB_DEFAULT_LIB_VERSION": "1"}
"""LMDB's own way to ask for the format of LMDB 1.0."""

MAKE_AND_COPY = """
import os, pathlib, sys
from tq_cluster.storage.copying import check_rows, copy_committed
from tq_cluster.storage.store import Store
folder = pathlib.Path(sys.argv[1])
store = Store(folder / "state")
store.commit()
with (folder / "copy").open("wb") as copy:
    copy_committed(store.path, copy.fileno())
check_rows(folder / "copy", lambda: False)
store.close()
"""


def format_of(file: Path) -> int:
    head = file.read_bytes()[:64]
    (found,) = struct.unpack_from("=I", head, head.index(struct.pack("=I", 0xBEEFC0DE)) + 4)
    return int(found)


def made_with_lmdb_1(folder: Path) -> Path:
    with lmdb.open(str(folder), lib_version=1, max_dbs=300) as environment:
        environment.open_db(b"0")
    return folder / DATA_FILE


def test_the_environment_does_not_choose_the_format_of_a_state_or_of_its_copies(
    tmp_path: Path,
) -> None:
    subprocess.run(
        [sys.executable, "-c", MAKE_AND_COPY, str(tmp_path)], env=NEWER, cwd=ROOT, check=True
    )

    assert format_of(tmp_path / "state" / DATA_FILE) == 1
    assert format_of(tmp_path / "copy") == 1
    Store(tmp_path / "state").close()


def test_a_state_in_the_newer_format_is_refused_and_not_taken_for_a_damaged_one(
    tmp_path: Path,
) -> None:
    file = made_with_lmdb_1(tmp_path)
    before = file.read_bytes()
    assert format_of(file) == 3

    for read in (lambda: Store(tmp_path), lambda: check_state(file, rows=False)):
        with pytest.raises(StartError, match="LMDB_DEFAULT_LIB_VERSION=1") as refused:
            read()
        # A damaged one would be set aside and rebuilt.
        assert not isinstance(refused.value, DamagedStateError)
    assert file.read_bytes() == before
