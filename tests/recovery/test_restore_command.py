"""tq-cluster restore: what it refuses, and that nothing half made is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storage.test_backup import MAKER
from tests.test_node import run, write_config
from tq_cluster import config
from tq_cluster.clock import Clock
from tq_cluster.core.model.operations import FormCluster
from tq_cluster.errors import DiskError, StartError
from tq_cluster.offline import restore
from tq_cluster.raft.identity import data_in
from tq_cluster.storage.backup import make_backup, write_backup
from tq_cluster.storage.directory import StateDirectory
from tq_cluster.storage.offline import decide_offline
from tq_cluster.storage.store import Store


class StoppedClock(Clock):
    """Shows one instant."""

    def __init__(self, wall_ms: int) -> None:
        self._wall_ms = wall_ms

    def monotonic_s(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return self._wall_ms


NOW = StoppedClock(MAKER.made_at_ms + 1)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    states = StateDirectory(tmp_path / "old")
    store = Store(states.current.path)
    store.apply(2, 1, b"")
    formed = FormCluster(cluster_id="c-1", members={"n1": "i-1"}, cluster_version=1, wall_ms=0)
    decide_offline(store, formed, now_ms=MAKER.made_at_ms)
    store.commit()
    path = tmp_path / "backup"
    made = make_backup(store, states.snapshots, MAKER)
    write_backup(made, path)
    made.close()
    store.close()
    return path


@pytest.fixture
def settings(tmp_path: Path) -> config.NodeConfig:
    return config.load(write_config(tmp_path), {}, {})


def test_a_directory_that_holds_anything_is_left_as_it_is(
    backup: Path, settings: config.NodeConfig
) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / "CURRENT").write_text("mine")

    with pytest.raises(StartError, match="holds CURRENT: a backup is restored into an empty"):
        restore.restore(backup, settings, NOW)

    assert (settings.data_dir / "CURRENT").read_text() == "mine"


def test_a_backup_of_no_cluster_is_refused(tmp_path: Path, settings: config.NodeConfig) -> None:
    states = StateDirectory(tmp_path / "empty")
    store = Store(states.current.path)
    made = make_backup(store, states.snapshots, MAKER)
    write_backup(made, tmp_path / "backup")
    made.close()
    store.close()

    with pytest.raises(StartError, match="holds the state of no cluster"):
        restore.restore(tmp_path / "backup", settings, NOW)

    assert not settings.data_dir.exists()


def test_a_damaged_backup_leaves_an_empty_directory(
    backup: Path, settings: config.NodeConfig
) -> None:
    content = bytearray(backup.read_bytes())
    content[5_000] ^= 1
    backup.write_bytes(content)

    with pytest.raises(StartError, match="not those that its SHA-256 was made of"):
        restore.restore(backup, settings, NOW)

    assert data_in(settings.data_dir) == []


def test_a_disk_without_room_is_told_before_anything_is_written(
    backup: Path, settings: config.NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq_cluster.offline.restoring.ROOM_SPARED_BYTES", 2**60)

    with pytest.raises(StartError, match="MiB free; to restore this backup takes"):
        restore.restore(backup, settings, NOW)

    assert data_in(settings.data_dir) == []


def test_a_clock_from_before_the_backup_is_refused(
    backup: Path, settings: config.NodeConfig
) -> None:
    with pytest.raises(StartError, match="set the clock right first, fencing tokens go by it"):
        restore.restore(backup, settings, StoppedClock(MAKER.made_at_ms - 3_600_000))

    assert not settings.data_dir.exists()


@pytest.mark.slow
def test_a_restore_that_was_cut_short_is_no_node(
    backup: Path, settings: config.NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tq_cluster.offline.restoring.write_identity", cut)
    monkeypatch.setattr("tq_cluster.offline.restoring._sweep", lambda path: None)  # as SIGKILL does
    with pytest.raises(KeyboardInterrupt):
        restore.restore(backup, settings, NOW)

    started = run("serve", "--config", str(settings.data_dir.parent / "node.yaml"))

    assert started.returncode == 2
    assert "but no identity file" in started.stderr


@pytest.mark.slow
def test_the_commands_say_what_they_did_and_what_is_next(
    backup: Path, settings: config.NodeConfig
) -> None:
    path = str(settings.data_dir.parent / "node.yaml")

    checked = run("check-backup", str(backup))
    restored = run("restore", "--backup", str(backup), "--config", path)
    again = run("restore", "--backup", str(backup), "--config", path)

    assert checked.returncode == 0
    assert f"{backup} is whole." in checked.stdout
    assert "up to entry:" in checked.stdout
    assert restored.returncode == 0, restored.stderr
    assert "holds node n1 of a new cluster" in restored.stdout
    assert again.returncode == 2
    assert "a backup is restored into an empty directory" in again.stderr
    assert list(backup.parent.glob("*.checking*")) == []


def test_a_check_leaves_what_lies_beside_the_backup_alone(backup: Path) -> None:
    beside = backup.with_name("backup.checking")
    beside.write_text("mine")

    assert "is whole" in restore.check(backup, None)

    assert beside.read_text() == "mine"


def test_a_check_without_a_place_for_the_state_says_how_to_name_another(
    backup: Path, tmp_path: Path
) -> None:
    with pytest.raises(StartError, match="name another folder with --scratch"):
        restore.check(backup, tmp_path / "nowhere")


def test_a_disk_that_fails_under_a_restore_is_told_and_holds_nothing(
    backup: Path, settings: config.NodeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskError("the state cannot be committed: No space left on device")

    monkeypatch.setattr(Store, "commit", full)
    with pytest.raises(StartError, match="cannot be committed: No space left"):
        restore.restore(backup, settings, NOW)

    assert data_in(settings.data_dir) == []


def test_a_data_directory_that_cannot_be_made_is_told_without_a_traceback(
    backup: Path, settings: config.NodeConfig
) -> None:
    settings.data_dir.write_text("a file")
    path = str(settings.data_dir.parent / "node.yaml")

    ran = run("restore", "--backup", str(backup), "--config", path)

    assert ran.returncode == 2
    assert f"{settings.data_dir} cannot be used" in ran.stderr
    assert "Traceback" not in ran.stderr
