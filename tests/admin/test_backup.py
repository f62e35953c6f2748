"""tq-admin backup: a whole file under its name, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker, cluster, refuse
from tq.v1 import cluster_service_pb2 as pb

BODY = b"what a broker sends" * 1_000
WHOLE = BODY + hashlib.sha256(BODY).digest()


def sends(
    broker: FakeBroker, address: str, content: bytes = WHOLE, *, cut: Sequence[int] = (7, 9_000)
) -> None:
    """Have every member answer at the fake broker's address, with this file in these pieces."""
    broker.cluster = cluster(leader="n2")
    for node in broker.cluster.nodes:
        node.address = address
    summary = pb.BackupSummary(cluster_id="c-1", node_id="n1", applied_index=1_205)
    summary.file_bytes = len(WHOLE)
    summary.made_at.GetCurrentTime()
    edges = [0, *cut, len(content)]
    pieces = [content[start:end] for start, end in pairwise(edges)]
    broker.backup = [
        pb.BackupResponse(summary=summary),
        *(pb.BackupResponse(data=piece) for piece in pieces),
    ]


@pytest.mark.parametrize("cut", [(7, 9_000), (len(WHOLE) - 5,), (len(BODY) - 1, len(BODY) + 1)])
def test_the_file_is_what_the_broker_sent(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path, cut: tuple[int, ...]
) -> None:
    sends(broker, address, cut=cut)

    ran = admin("backup", str(tmp_path / "file"), "-o", "json")

    assert (ran.code, ran.stderr) == (0, "")
    assert (tmp_path / "file").read_bytes() == WHOLE
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (ran.json["cluster_id"], ran.json["applied_index"]) == ("c-1", 1_205)


def test_it_asks_for_everything_that_was_committed_before(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path
) -> None:
    sends(broker, address)

    admin("backup", str(tmp_path / "file"))

    assert broker.backups[0].min_applied_index == max(
        node.commit_index for node in broker.cluster.nodes
    )


def test_a_stream_that_breaks_leaves_nothing(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path
) -> None:
    sends(broker, address)

    def breaks(context: grpc.ServicerContext) -> None:
        if broker.backups:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    broker.before = breaks
    ran = admin("backup", str(tmp_path / "file"))

    assert ran.code == 3
    assert "broke off" in ran.stderr
    assert "nothing of it was kept" in ran.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [WHOLE[:-1], WHOLE + b"x", b"y" + WHOLE[1:], WHOLE[:20]])
def test_what_arrives_changed_is_not_kept(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path, content: bytes
) -> None:
    sends(broker, address, content, cut=(5,))

    ran = admin("backup", str(tmp_path / "file"))

    assert ran.code == 1
    assert "what arrived is not what was sent" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_left_alone(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path
) -> None:
    sends(broker, address)
    (tmp_path / "file").write_text("precious")

    ran = admin("backup", str(tmp_path / "file"))

    assert ran.code == 2
    assert "exists already" in ran.stderr
    assert (tmp_path / "file").read_text() == "precious"


def test_a_disk_without_room_is_told_before_anything_is_written(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path
) -> None:
    sends(broker, address)
    broker.backup[0].summary.file_bytes = 1 << 60

    ran = admin("backup", str(tmp_path / "file"))

    assert ran.code == 1
    assert "the backup takes" in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told_by_name(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path
) -> None:
    sends(broker, address)

    ran = admin("backup", str(tmp_path / "nowhere" / "file"))

    assert ran.code == 1
    assert f"{tmp_path / 'nowhere' / 'file'} cannot be written: No such file" in ran.stderr


def test_a_member_that_is_none_or_is_down_is_refused(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path
) -> None:
    broker.cluster = cluster(leader="n2", down=("n3",))

    unknown = admin("backup", str(tmp_path / "file"), "--node", "n9")
    down = admin("backup", str(tmp_path / "file"), "--node", "n3")

    assert (unknown.code, down.code) == (2, 3)
    assert "Members are n1, n2, n3" in unknown.stderr
    assert "connection refused" in down.stderr


def test_a_refusal_says_what_to_do(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path
) -> None:
    sends(broker, address)

    def full(context: grpc.ServicerContext) -> None:
        if broker.backups:
            refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_PRESSURE", "1 MiB free")

    broker.backup = []
    broker.before = full
    ran = admin("backup", str(tmp_path / "file"))

    assert ran.code == 1
    assert "1 MiB free" in ran.stderr
    assert "Free disk space" in ran.stderr


def test_another_backup_to_the_same_file_is_not_written_over(
    admin: Admin, broker: FakeBroker, address: str, tmp_path: Path
) -> None:
    """A killed one may have left it: no command can tell, and the first of two would be damaged."""
    sends(broker, address)
    (tmp_path / "file.partial").write_text("half")

    ran = admin("backup", str(tmp_path / "file"))

    assert ran.code == 1
    assert "another backup to" in ran.stderr
    assert "remove that file" in ran.stderr
    assert (tmp_path / "file.partial").read_text() == "half"
    assert not (tmp_path / "file").exists()
