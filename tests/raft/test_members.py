"""Who is counted in a majority: whom the record names, and what contradicts it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.world.host import Identity
from tq.internal.v1 import log_pb2, state_pb2
from tq_cluster.core.model.operations import FormCluster
from tq_cluster.core.rows import tables
from tq_cluster.errors import FatalError, StartError
from tq_cluster.raft.identity import MemberList, read_identity, write_identity
from tq_cluster.raft.inspection import inspect
from tq_cluster.raft.members import contradiction, counted, require_may_form, settle
from tq_cluster.raft.startup import NodeData, open_data
from tq_cluster.raft.syncer import InlineSyncer
from tq_cluster.storage.files import read_record, write_record
from tq_cluster.storage.offline import decide_offline
from tq_cluster.storage.rows import seal

DISKS = {"n1": "one", "n2": "two", "n3": "three"}
LIST = MemberList(incarnations=DISKS)


def fatal(error: FatalError) -> None:
    raise error


def opened(path: Path, *members: str, single: bool = False, node_id: str = "n1") -> NodeData:
    return open_data(
        path,
        node_id=node_id,
        draw=random.Random(1),
        syncer=InlineSyncer(),
        on_fatal=fatal,
        members=members,
        single=single,
    )


def close(data: NodeData) -> None:
    data.journal.close()
    data.disk.close()
    data.store.close()
    data.directory.release()


def formed(path: Path, disks: Mapping[str, str] = DISKS, cluster_id: str = "c-1") -> None:
    """Make the directory of n1, which has recorded a cluster of these disks, and so has its state.

    As the first version left it once the record's members are taken out.
    """
    data = opened(path)
    data.directory.join(cluster_id, MemberList(incarnations=disks))
    form = FormCluster(cluster_id=cluster_id, members=disks, cluster_version=1, wall_ms=0)
    data.journal.add(b"", 2, 1)
    data.store.apply(2, 1, b"")
    decide_offline(data.store, form, now_ms=1)
    data.store.commit()
    for index in range(3, data.store.applied.index + 1):
        data.journal.add(b"", index, 1)
    data.journal.sync_now()
    close(data)


def without_record(path: Path) -> None:
    """Leave the identity as the first version wrote it."""
    record = read_record(path / "identity", format_known=1)
    assert record is not None
    del record["members"]
    write_record(path / "identity", record)


# ---------------------------------------------------------------------- record and file


@pytest.mark.parametrize("order", [("n1", "n2", "n3"), ("n3", "n1", "n2")])
def test_a_file_may_name_the_members_in_any_order(order: tuple[str, ...]) -> None:
    assert counted(LIST, order) == ("n1", "n2", "n3")
    assert counted(None, order) == ("n1", "n2", "n3")


@pytest.mark.parametrize(
    "file",
    [
        ("n1",),
        ("n1", "n2"),
        ("n1", "n2", "n3", "n4", "n5"),
        ("n1", "n2", "n9"),
        ("n1", "n2", "N3"),
    ],
    ids=",".join,
)
def test_a_file_that_names_others_than_the_record_is_refused_naming_both(
    tmp_path: Path, file: tuple[str, ...]
) -> None:
    formed(tmp_path)
    before = (tmp_path / "identity").read_bytes()

    for _ in range(2):  # the directory is let go of each time
        with pytest.raises(StartError) as caught:
            opened(tmp_path, *file, single=len(file) == 1)
        said = str(caught.value)
        assert f"the configuration names the members {', '.join(sorted(file))}, but" in said
        assert "is of n1, n2, n3: editing a file changes no members" in said
    assert (tmp_path / "identity").read_bytes() == before


def test_a_list_is_there_again_as_it_was_written(tmp_path: Path) -> None:
    formed(tmp_path)

    data = opened(tmp_path, "n1", "n2", "n3")
    members = data.directory.members
    close(data)

    assert members == LIST


def test_an_identity_that_was_torn_or_edited_is_refused(tmp_path: Path) -> None:
    formed(tmp_path)
    file = tmp_path / "identity"
    whole = file.read_text()

    for damaged in (whole[:-40], whole.replace('"n3"', '"n9"'), whole.replace('"three"', '"3"')):
        file.write_text(damaged)
        with pytest.raises(StartError, match="identity is damaged"):
            opened(tmp_path, "n1", "n2", "n3")


def test_a_record_whose_writing_was_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    formed(tmp_path)
    (tmp_path / "identity.partial").write_text('{"members": {"incarnations": {"n1"')

    data = opened(tmp_path, "n1", "n2", "n3")
    members = data.directory.members
    close(data)

    assert members == LIST


# ---------------------------------------------------------------------- a cluster of one


def test_a_cluster_of_one_is_formed_only_if_it_is_meant(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"members names n1 alone.*say single: true"):
        opened(tmp_path / "n1", "n1")
    assert not (tmp_path / "n1").exists()

    close(opened(tmp_path / "n1", "n1", single=True))


def test_one_that_was_formed_goes_on_without_being_told_again(tmp_path: Path) -> None:
    """As those of the first version do, whose files could not say it."""
    formed(tmp_path, {"n1": "one"})
    without_record(tmp_path)

    for _ in range(2):
        close(opened(tmp_path, "n1"))


def test_a_disk_that_has_a_cluster_asks_for_nothing() -> None:
    require_may_form("c-1", ["n1"], single=False)
    require_may_form(None, ["n1", "n2"], single=False)


# ---------------------------------------------------------------------- record and state


def test_a_directory_of_the_first_version_takes_the_list_from_its_state(tmp_path: Path) -> None:
    formed(tmp_path)
    without_record(tmp_path)

    with pytest.raises(StartError, match=r"names the members n1, but .* is of n1, n2, n3"):
        opened(tmp_path, "n1", single=True)

    identity = read_identity(tmp_path)
    assert identity is not None
    assert identity.members is not None
    assert identity.members.incarnations == DISKS


def test_one_whose_state_does_not_hold_it_yet_takes_it_from_its_journal(tmp_path: Path) -> None:
    """Killed within moments of the forming of its cluster, and started with today's software."""
    data = opened(tmp_path)
    data.directory.join("c-1", LIST)
    row = state_pb2.ClusterRow(
        cluster_id="c-1",
        members=[state_pb2.Member(node_id=name, incarnation=DISKS[name]) for name in DISKS],
    ).SerializeToString()
    changes = log_pb2.TableChanges(
        table=tables.META,
        put_keys=[tables.CLUSTER_KEY],
        put_values=[seal(tables.META, tables.CLUSTER_KEY, row)],
    )
    data.journal.add(b"\x01", 2, 1)
    data.journal.add(log_pb2.Entry(format=1, tables=[changes]).SerializeToString(), 3, 1)
    data.journal.sync_now()
    close(data)
    without_record(tmp_path)

    with pytest.raises(StartError, match="is of n1, n2, n3"):
        opened(tmp_path, "n1", "n2")

    data = opened(tmp_path, "n1", "n2", "n3")
    members = data.directory.members
    close(data)
    assert members == LIST


@pytest.mark.parametrize(
    ("disks", "cluster_id", "said"),
    [
        (DISKS, "c-2", "the state is of cluster c-2, n1 belongs to c-1"),
        ({"n1": "one"}, "c-1", "the state names the members n1, the identity of n1 n1, n2, n3"),
        ({**DISKS, "n3": "3"}, "c-1", "as of entry 0 the state names the disks"),
    ],
)
def test_a_state_that_is_not_this_nodes_is_refused(
    disks: dict[str, str], cluster_id: str, said: str
) -> None:
    identity = Identity("n1", "one")
    identity.join("c-1", LIST)

    assert said in settle(identity, (cluster_id, disks), applied_index=0)
    assert identity.members == LIST


def test_a_node_does_not_start_on_the_state_of_another_cluster(tmp_path: Path) -> None:
    formed(tmp_path)
    identity = read_identity(tmp_path)
    assert identity is not None
    write_identity(tmp_path, replace(identity, cluster_id="c-2"))

    with pytest.raises(StartError, match="does not belong together: the state is of cluster c-1"):
        opened(tmp_path, "n1", "n2", "n3")
    assert "does not belong together" in inspect(tmp_path).fault


def test_a_record_that_fell_behind_is_brought_up_and_one_that_is_ahead_stays() -> None:
    """A member's disk was replaced at entry 7; the state of a node that was killed may lack it."""
    identity = Identity("n1", "one")
    identity.join("c-1", LIST)
    later = {**DISKS, "n3": "another"}

    assert settle(identity, ("c-1", later), applied_index=7) == ""
    assert identity.members == MemberList(incarnations=later, index=7)

    assert settle(identity, ("c-1", DISKS), applied_index=6) == ""
    assert identity.members == MemberList(incarnations=later, index=7)


def test_a_state_that_does_not_say_yet_contradicts_nothing() -> None:
    assert contradiction(Identity("n1", "one"), None) == ""
