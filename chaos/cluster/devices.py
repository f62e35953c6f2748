"""A small file system of our own for each node, so that its disk can be broken for real.

ext4 on a loop device whose image lies on a tmpfs: the page cache, the journal and fsync are the
kernel's own; a full tmpfs under a sparse image makes fsync fail, and a shutdown without a log flush
loses what was not fsynced.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

IMAGE_MB = 256
UNDERLAY_MB = 300
"""Room for the whole image, so that writes to it fail only on purpose."""
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_NO_LOG_FLUSH = 2
_FREEZE, _THAW = 0xC0045877, 0xC0045878  # FIFREEZE, FITHAW
COMMAND_S = 60.0


def missing() -> str | None:
    """Say why no such disk can be made here; None if one can."""
    if os.geteuid() != 0:
        return "mounting a disk needs root"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    if shutil.which("mkfs.ext4") is None:
        return "there is no mkfs.ext4 (e2fsprogs)"
    return None


class LoopDisk:
    """One disk, mounted at ``path``. Root only."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "disk"
        self._underlay = folder / "underlay"
        self._image = self._underlay / "image"
        self._hoard = self._underlay / "hoard"
        self._filler = self.path / "filler"
        self._frozen = False

    def make(self) -> None:
        """Make and mount it."""
        self.path.mkdir(parents=True)
        self._underlay.mkdir()
        _run("mount", "-t", "tmpfs", "-o", f"size={UNDERLAY_MB}m", "tmpfs", str(self._underlay))
        with self._image.open("wb") as image:
            image.truncate(IMAGE_MB << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        self._mount()

    def free_mb(self) -> int:
        """The free space in MB."""
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_frsize >> 20

    def fill(self, left_mb: int) -> None:
        """Fill the disk except for ``left_mb``."""
        self.unfill()
        with self._filler.open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, max(1, self.free_mb() - left_mb) << 20)

    def unfill(self) -> None:
        """Free the space again."""
        self._filler.unlink(missing_ok=True)

    def starve(self) -> None:
        """Make fsync fail: the tmpfs below the image has no room left."""
        with self._hoard.open("wb", buffering=0) as hoard:
            piece = bytes(1 << 20)
            try:
                while hoard.write(piece):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def freeze(self) -> None:
        """Make every write and fsync wait."""
        self._control(_FREEZE)
        self._frozen = True

    def thaw(self) -> None:
        """Let them go on."""
        if self._frozen:
            self._frozen = False
            self._control(_THAW)

    def fail_to_read_only(self) -> None:
        """Make the kernel find an error on it: it becomes read-only."""
        device = self._device()
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("broken by the chaos suite\n")

    def cut_power(self) -> None:
        """Lose everything that was not fsynced. Kill the processes that write to it first."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def repair(self) -> None:
        """Remount it, as after a power cut or an error, with room again. No process may use it."""
        self._unmount()
        self._hoard.unlink(missing_ok=True)
        # 1: errors were found and corrected, such as the one that `fail_to_read_only` noted.
        _run("fsck.ext4", "-p", str(self._image), fine=(0, 1))
        self._mount()

    def close(self) -> None:
        """Unmount and remove it, in any state."""
        if self._underlay.is_dir():
            self.thaw()
            if os.path.ismount(self.path):
                self._unmount()
            if os.path.ismount(self._underlay):
                _run("umount", str(self._underlay))

    def _mount(self) -> None:
        # The unmount also removes the loop device.
        _run("mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path))

    def _unmount(self) -> None:
        _run("umount", str(self.path))

    def _device(self) -> str:
        minor = os.minor(self.path.stat().st_dev)
        return Path(f"/sys/dev/block/7:{minor}").resolve().name

    def _control(self, request: int) -> None:
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, request, 0)
        finally:
            os.close(folder)


def _run(*command: str, fine: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(  # noqa: S603  # our own command
        command, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    if done.returncode not in fine:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
