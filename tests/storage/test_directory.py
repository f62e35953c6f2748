"""A directory opens the state that counts, or refuses to, after any interruption or damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import StartError
from tq_cluster.storage.directory import StateDirectory


def test_a_new_directory_begins_with_an_empty_state(tmp_path: Path) -> None:
    states = StateDirectory(tmp_path)

    assert states.current.path.is_dir()
    assert states.current.installed is None
    assert StateDirectory(tmp_path).current == states.current


def test_the_installed_state_counts_and_the_old_one_is_swept_away(tmp_path: Path) -> None:
    states = StateDirectory(tmp_path)
    old = states.current.path
    new = states.next_path()
    (new / "data.mdb").write_bytes(b"state")

    states.switch(new, AppliedAt(9, 2))

    again = StateDirectory(tmp_path)
    assert (again.current.path, again.current.installed) == (new, AppliedAt(9, 2))
    assert not old.exists()
    again.clear_mark()
    assert StateDirectory(tmp_path).current.installed is None


def test_unfinished_states_and_snapshots_are_swept_away(tmp_path: Path) -> None:
    states = StateDirectory(tmp_path)
    unfinished = states.next_path()
    (states.snapshots / "incoming").write_bytes(b"half")

    again = StateDirectory(tmp_path)

    assert not unfinished.exists()
    assert list(again.snapshots.iterdir()) == []


def test_a_state_without_its_pointer_is_refused_and_left_alone(tmp_path: Path) -> None:
    states = StateDirectory(tmp_path)
    (states.current.path / "data.mdb").write_bytes(b"state")
    (tmp_path / "CURRENT").unlink()

    with pytest.raises(StartError, match="CURRENT is missing"):
        StateDirectory(tmp_path)

    assert (states.current.path / "data.mdb").exists()


def test_a_missing_state_is_refused(tmp_path: Path) -> None:
    StateDirectory(tmp_path).current.path.rmdir()

    with pytest.raises(StartError, match="is missing"):
        StateDirectory(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text.replace("state-1", "state-2"), "checksum"),
        (lambda text: text[:-5], "damaged"),
        (lambda _: "", "damaged"),
        (lambda _: "[]", "checksum"),
    ],
)
def test_a_damaged_pointer_is_refused(
    tmp_path: Path, change: Callable[[str], str], complaint: str
) -> None:
    StateDirectory(tmp_path)
    pointer = tmp_path / "CURRENT"
    pointer.write_text(change(pointer.read_text()))

    with pytest.raises(StartError, match=complaint):
        StateDirectory(tmp_path)


def test_a_damaged_state_gives_way_to_an_empty_one_and_the_last_one_is_kept(tmp_path: Path) -> None:
    states = StateDirectory(tmp_path)
    (states.current.path / "data.mdb").write_bytes(b"first")
    states.set_aside()
    (states.current.path / "data.mdb").write_bytes(b"second")
    kept = states.set_aside()

    again = StateDirectory(tmp_path)

    assert (kept / "data.mdb").read_bytes() == b"second"
    assert list(again.current.path.iterdir()) == []
    assert again.current.installed is None
    assert sorted(path.name for path in tmp_path.glob("*state-*")) == ["damaged-state-2", "state-3"]
