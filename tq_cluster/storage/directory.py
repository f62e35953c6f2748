"""A node's state directories, and the current one among them.

No state overwrites another: an installed snapshot gets a directory of its own, and ``CURRENT``
names the current one. It also carries the mark "installed at (index, term)" until the journal has
been brought in line with it.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import StartError
from tq_cluster.storage.files import RESTORE, make_folder, read_record, sync_folder, write_record

FORMAT = 1
POINTER = "CURRENT"
_ASIDE = "damaged-"
_NAME = re.compile(r"state-(\d+)")


@dataclass(frozen=True, slots=True)
class Current:
    """The current state."""

    path: Path
    installed: AppliedAt | None
    """The snapshot's last entry if it was installed and the journal may not know it yet."""


def peek(root: Path) -> Current:
    """Return the current state in a folder, without changes; StartError if there is none."""
    fields = read_record(root / POINTER, format_known=FORMAT)
    if fields is None:
        raise StartError(f"{root} holds no state: {POINTER} is missing")
    return Current(root / fields["state"], _installed(fields))


def _installed(fields: Mapping[str, Any]) -> AppliedAt | None:
    mark = fields["installed"]
    return None if mark is None else AppliedAt(mark["index"], mark["term"])


class StateDirectory:
    """The folder that holds the states of one node."""

    def __init__(self, root: Path) -> None:
        """Find the current state, or create a folder for one, and remove the rest."""
        self.root = root
        make_folder(root)
        fields = read_record(self._pointer, format_known=FORMAT)
        if fields is None:
            if found := [path.name for path in self._states() if any(path.iterdir())]:
                raise StartError(f"{root} holds {found[0]}, but CURRENT is missing; {RESTORE}")
            make_folder(root / "state-1")
            self._point("state-1", None)
        else:
            self._current = Current(root / fields["state"], _installed(fields))
            if not self._current.path.is_dir():
                raise StartError(
                    f"{self._current.path} is missing, but CURRENT names it; {RESTORE}"
                )
        self.sweep()

    @property
    def current(self) -> Current:
        return self._current

    @property
    def snapshots(self) -> Path:
        """The folder in which snapshots are made and received, on the same file system."""
        return self.root / "snapshots"

    def next_path(self) -> Path:
        """Create an empty folder for the next state, and return it."""
        taken = [int(path.name.removeprefix("state-")) for path in self._states()]
        for number in itertools.count(max(taken, default=0) + 1):
            path = self.root / f"state-{number}"
            try:
                path.mkdir()
            except FileExistsError:  # another thread builds one, too
                continue
            return path
        raise AssertionError("numbers do not end")

    def switch(self, path: Path, installed: AppliedAt) -> None:
        """Make the state in ``path``, complete and on disk, the current one. Durable on return."""
        sync_folder(self.root)
        self._point(path.name, installed)

    def set_aside(self) -> Path:
        """Start with an empty state, and return where the damaged one is kept for inspection.

        Only the last one is kept. Not for an installed snapshot that the journal does not know:
        other nodes rely on its content.
        """
        damaged = self._current.path
        fresh = self.next_path()
        sync_folder(self.root)
        self._point(fresh.name, None)
        for earlier in self.root.glob(f"{_ASIDE}*"):
            shutil.rmtree(earlier)
        kept = self.root / f"{_ASIDE}{damaged.name}"
        damaged.rename(kept)
        sync_folder(self.root)
        return kept

    def clear_mark(self) -> None:
        """Record that the journal knows the current state."""
        if self._current.installed is not None:
            self._point(self._current.path.name, None)

    def others(self) -> list[Path]:
        """Return the paths of all states but the current one."""
        return [path for path in self._states() if path != self._current.path]

    def sweep(self) -> None:
        """Remove every other state, and all files in ``snapshots``."""
        for path in self.others():
            shutil.rmtree(path)
        make_folder(self.snapshots)
        for path in self.snapshots.iterdir():
            path.unlink()

    @property
    def _pointer(self) -> Path:
        return self.root / POINTER

    def _states(self) -> list[Path]:
        return sorted(path for path in self.root.iterdir() if _NAME.fullmatch(path.name))

    def _point(self, name: str, installed: AppliedAt | None) -> None:
        mark = None if installed is None else {"index": installed.index, "term": installed.term}
        write_record(self._pointer, {"format": FORMAT, "state": name, "installed": mark})
        self._current = Current(self.root / name, installed)
