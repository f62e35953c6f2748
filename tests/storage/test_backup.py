"""The backup file: whole or refused, with the damage named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.test_snapshot import filled, rows
from tq.internal.v1 import backup_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.storage.backup import (
    FORMAT,
    MAGIC,
    BackupError,
    Maker,
    OutgoingBackup,
    check_backup,
    check_extracted,
    extract_state,
    make_backup,
    read_header,
    write_backup,
)
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.environment import DATA_FILE
from tq_cluster.storage.rows import seal
from tq_cluster.storage.store import Store

MAKER = Maker(node_id="n1", version="1.0.0", made_at_ms=1_760_000_000_000, backup_id="b-1")


@pytest.fixture
def states(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path / "node")


@pytest.fixture
def store(states: StateDirectory) -> Iterator[Store]:
    store = Store(states.current.path)
    yield filled(store)
    store.close()


@pytest.fixture
def file(store: Store, states: StateDirectory, tmp_path: Path) -> Path:
    path = tmp_path / "backup"
    backup = make_backup(store, states.snapshots, MAKER)
    write_backup(backup, path)
    assert path.stat().st_size == backup.file_bytes
    backup.close()
    return path


def test_what_is_extracted_is_the_state_that_was_backed_up(
    file: Path, store: Store, states: StateDirectory, tmp_path: Path
) -> None:
    target = tmp_path / "restored"
    target.mkdir()

    header = extract_state(file, target / DATA_FILE)

    check_extracted(file, target / DATA_FILE, header)
    restored = Store(target)
    assert restored.applied == store.applied == AppliedAt(header.applied_index, header.applied_term)
    assert rows(restored) == rows(store)
    restored.close()
    assert header.node_id == "n1"
    assert list(states.snapshots.iterdir()) == []


def test_a_whole_backup_is_whole_and_leaves_nothing_behind(file: Path, tmp_path: Path) -> None:
    assert check_backup(file, tmp_path / "scratch").backup_id == "b-1"

    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("place", [20, 5_000, -1])
def test_a_flipped_bit_anywhere_is_found(file: Path, tmp_path: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)

    with pytest.raises(BackupError, match=r"damaged|should have"):
        check_backup(file, tmp_path / "scratch")

    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: b"x" + content, "is no backup of a tq cluster"),
        (lambda content: b"", "is no backup of a tq cluster"),
        (lambda content: content[:-1], "ends too early"),
        (lambda content: content + b"x", "goes on after its end"),
        (lambda content: content[:30], "its header cannot be read"),
        (
            lambda content: MAGIC + bytes([FORMAT + 1]) + content[len(MAGIC) + 1 :],
            f"has backup format {FORMAT + 1}, this software knows {FORMAT}",
        ),
    ],
)
def test_a_file_that_is_no_whole_backup_is_refused_with_what_is_wrong(
    file: Path, tmp_path: Path, change: object, told: str
) -> None:
    assert callable(change)
    file.write_bytes(change(file.read_bytes()))

    with pytest.raises(BackupError, match=told):
        check_backup(file, tmp_path / "scratch")


def test_a_file_that_is_not_there_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="nothing cannot be used: No such file"):
        read_header(tmp_path / "nothing")


def test_a_backup_of_newer_rules_is_refused(file: Path, tmp_path: Path) -> None:
    with file.open("rb") as content:
        header = backup_pb2.BackupHeader(
            cluster_version=1_000, backup_id="b-2", state_bytes=file.stat().st_size
        )
        newer = OutgoingBackup(header, content)
        write_backup(newer, tmp_path / "newer")

    with pytest.raises(BackupError, match="cluster version 1000, this software knows"):
        read_header(tmp_path / "newer")


def test_a_damaged_row_is_found_although_the_digest_matches(
    store: Store, states: StateDirectory, tmp_path: Path
) -> None:
    backup = make_backup(store, states.snapshots, MAKER)
    write_backup(backup, tmp_path / "sound")
    state = b"".join(backup.pieces())
    [value] = {each for _, each in rows(store).items()}
    sealed = seal(7, b"key 003", value)
    start = state.index(sealed[-4:])
    forged = state[:start] + b"\0\0\0\0" + state[start + 4 :]
    begins = backup.file_bytes - backup.header.state_bytes - 32
    (tmp_path / "state").write_bytes(forged[begins:-32])
    with (tmp_path / "state").open("rb") as content:
        write_backup(OutgoingBackup(backup.header, content), tmp_path / "forged")

    with pytest.raises(BackupError, match="fail their CRC"):
        check_backup(tmp_path / "forged", tmp_path / "scratch")


def test_a_backup_that_says_it_ends_elsewhere_is_refused(
    store: Store, states: StateDirectory, tmp_path: Path
) -> None:
    backup = make_backup(store, states.snapshots, MAKER)
    backup.header.applied_index += 1
    lying = OutgoingBackup(backup.header, backup._state)
    write_backup(lying, tmp_path / "lying")

    with pytest.raises(BackupError, match="its header says entry"):
        check_backup(tmp_path / "lying", tmp_path / "scratch")
