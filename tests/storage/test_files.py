"""Small files and folders that survive a power cut as they were left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tq_cluster.errors import StartError
from tq_cluster.storage.files import make_folder, read_record, write_record


def test_a_record_is_on_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, calls: list[str]
) -> None:
    write_record(tmp_path / "record", {"format": 1, "a": "b"})

    assert calls == ["fsync record.partial", "rename record.partial", f"fsync {tmp_path.name}"]
    assert read_record(tmp_path / "record", format_known=1) == {"format": 1, "a": "b"}


def test_a_new_folder_is_on_disk_with_all_above_it(tmp_path: Path, calls: list[str]) -> None:
    make_folder(tmp_path / "a" / "b")
    assert calls == [f"fsync {tmp_path.name}", "fsync a"]

    make_folder(tmp_path / "a" / "b")
    assert len(calls) == 2


def test_a_record_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path / "record", format_known=1) is None


def test_any_change_to_a_record_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "record"
    write_record(file, {"format": 1, "name": "n1", "number": 7})
    content = file.read_bytes()

    for at, byte in enumerate(content):
        if chr(byte).isalnum():
            file.write_bytes(content[:at] + bytes([byte ^ 1]) + content[at + 1 :])
            with pytest.raises(StartError, match="damaged"):
                read_record(file, format_known=1)
