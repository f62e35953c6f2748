"""A data directory serves the node it belongs to, once at a time."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tq_cluster.errors import StartError
from tq_cluster.raft.identity import DataDirectory, MemberList
from tq_cluster.storage.files import write_record

MEMBERS = MemberList(incarnations={"n1": "one", "n2": "two", "n3": "three"})
Open = Callable[..., DataDirectory]


@pytest.fixture
def open_as(tmp_path: Path) -> Open:
    draw = random.Random(1)

    def open_as(node_id: str, group_id: int = 0) -> DataDirectory:
        return DataDirectory(tmp_path / "data", node_id=node_id, group_id=group_id, draw=draw)

    return open_as


def test_an_empty_directory_is_claimed_for_a_new_incarnation(open_as: Open) -> None:
    directory = open_as("n1")
    directory.release()

    again = open_as("n1")

    assert again.identity == directory.identity
    assert again.cluster_id is None
    assert len(again.incarnation) == 16


def test_a_node_that_lost_its_disk_has_another_incarnation(open_as: Open) -> None:
    first = open_as("n1")
    first.release()
    (first.path / "identity").unlink()

    assert open_as("n1").incarnation != first.incarnation


def test_the_cluster_is_remembered(open_as: Open) -> None:
    directory = open_as("n1")
    directory.join("c-1", MEMBERS)
    directory.release()

    again = open_as("n1")

    assert again.cluster_id == "c-1"
    assert again.incarnation == directory.incarnation
    again.join("c-1", MEMBERS)
    with pytest.raises(StartError, match=r"node n1 of cluster c-1.*cannot join cluster c-2"):
        again.join("c-2", MEMBERS)


def test_another_nodes_directory_is_refused_naming_both(open_as: Open) -> None:
    directory = open_as("n1")
    directory.join("c-1", MEMBERS)
    directory.release()

    with pytest.raises(StartError, match=r"belongs to node n1 of cluster c-1.*this is node n2"):
        open_as("n2")
    with pytest.raises(StartError, match="belongs to group 0, not to 3"):
        open_as("n1", group_id=3)

    open_as("n1").release()


def test_a_directory_in_use_is_refused_naming_the_process(open_as: Open) -> None:
    directory = open_as("n1")

    with pytest.raises(StartError, match=f"in use by process {os.getpid()}"):
        open_as("n1")

    directory.release()
    directory.release()
    open_as("n1").release()


def test_a_directory_is_free_again_once_its_process_was_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, random, sys\n"
        "from tq_cluster.raft.identity import DataDirectory\n"
        f"d = DataDirectory(pathlib.Path({str(tmp_path)!r}), node_id='n1', draw=random.Random(1))\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StartError, match=f"in use by process {process.pid}"):
            DataDirectory(tmp_path, node_id="n1", draw=random.Random(2))
        process.kill()

    DataDirectory(tmp_path, node_id="n1", draw=random.Random(2)).release()


def test_data_without_an_identity_is_refused_and_left_alone(open_as: Open, tmp_path: Path) -> None:
    journal = tmp_path / "data" / "journal"
    journal.mkdir(parents=True)

    with pytest.raises(StartError, match="holds journal but no identity"):
        open_as("n1")

    assert [path.name for path in journal.parent.iterdir() if path.name != "node.lock"] == [
        "journal"
    ]


def test_a_damaged_identity_is_refused(open_as: Open) -> None:
    directory = open_as("n1")
    directory.release()
    file = directory.path / "identity"
    file.write_text(file.read_text().replace('"n1"', '"n2"'))

    with pytest.raises(StartError, match="damaged, or was edited"):
        open_as("n2")


def test_an_identity_of_a_newer_format_is_refused(open_as: Open) -> None:
    directory = open_as("n1")
    directory.release()
    write_record(directory.path / "identity", {"format": 2, "node_id": "n1"})

    with pytest.raises(StartError, match=r"format 2.*newer"):
        open_as("n1")
