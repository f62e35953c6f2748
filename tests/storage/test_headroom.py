"""What a node notices of a filling disk, and what it can still give up."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tq_cluster.raft.disk import FileDisk
from tq_cluster.storage.headroom import Headroom

RESERVE = 1_000
BALLAST = 400


class Disk:
    """So many bytes free, less what the ballast takes."""

    def __init__(self, folder: Path, free: int) -> None:
        self.folder = folder
        self.free = free

    def left(self, folder: Path) -> int:
        assert folder == self.folder
        ballast = self.folder / "ballast"
        return self.free - (ballast.stat().st_size if ballast.exists() else 0)


def headroom_on(disk: Disk) -> Headroom:
    return Headroom(disk.folder, reserve_bytes=RESERVE, ballast_bytes=BALLAST, free=disk.left)


def test_a_disk_is_low_below_the_reserve_until_there_is_a_quarter_more(tmp_path: Path) -> None:
    disk = Disk(tmp_path, RESERVE)
    headroom = headroom_on(disk)
    seen = []
    for free in (1_000, 999, 1_249, 1_250, 1_000):
        disk.free = free
        seen.append(headroom.look())

    assert seen == [False, True, True, False, False]


def test_the_ballast_is_laid_only_where_the_disk_is_not_low_after_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path, 1_649)
    headroom = headroom_on(disk)
    wanted = []
    for free in (1_649, 1_650):
        disk.free = free
        headroom.look()
        wanted.append(headroom.wants_ballast)
    assert wanted == [False, True]

    headroom.lay_ballast()

    assert (tmp_path / "ballast").stat().st_size == BALLAST
    assert (tmp_path / "ballast").stat().st_blocks > 0, "a file with a hole holds nothing back"
    headroom.look()
    assert not headroom.low
    assert not headroom.wants_ballast


def test_the_ballast_is_given_up_when_the_disk_is_all_but_full_and_laid_again_after(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path, 10_000)
    headroom = headroom_on(disk)
    headroom.look()
    headroom.lay_ballast()

    held = []
    for free in (BALLAST + 200, BALLAST + 199):
        disk.free = free
        headroom.look()
        held.append(headroom.has_ballast)

    assert held == [True, False]
    assert headroom.free_bytes == BALLAST + 199

    disk.free = 10_000
    headroom.look()
    assert headroom.wants_ballast


def test_no_room_for_the_ballast_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headroom = headroom_on(Disk(tmp_path, 10_000))

    def full(file: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    headroom.lay_ballast()

    assert list(tmp_path.iterdir()) == []


def test_without_ballast_there_is_nothing_to_give_up(tmp_path: Path) -> None:
    headroom = Headroom(tmp_path, reserve_bytes=RESERVE, ballast_bytes=0, free=lambda _folder: 0)

    assert headroom.look()
    assert not headroom.give_up()
    assert not headroom.wants_ballast


class Full:
    """A device that takes ``left`` more bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, file: int, data: bytes) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(file, bytes(data[: self.left]))
        self.left -= written
        return written


def test_a_journal_that_meets_a_full_disk_goes_on_in_what_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Full(monkeypatch, left=4)

    def give_up() -> bool:
        device.left = 100
        return True

    disk = FileDisk(tmp_path / "journal", give_up)
    disk.append("1", b"0123456789")

    assert disk.read("1", 0, 100) == b"0123456789"


def test_a_journal_that_meets_a_full_disk_fails_where_nothing_can_be_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Full(monkeypatch, left=4)
    disk = FileDisk(tmp_path / "journal", lambda: False)

    with pytest.raises(OSError, match="No space left"):
        disk.append("1", b"0123456789")
