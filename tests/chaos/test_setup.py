"""How a node is started when several faults have a say in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.cluster.broker import NodeSetup, SetupConflictError
from chaos.cluster.processes import FactMissingError, ProcessCluster
from tests.patience import PATIENCE_S


def test_setups_add_up_and_the_later_wrapper_is_the_outer_one() -> None:
    disk = NodeSetup(data_dir=Path("/mnt/1"), environment={"LD_PRELOAD": "a.so"})
    clock = NodeSetup(wrapper=("unshare", "-T"), environment={"LD_PRELOAD": "b.so", "SKEW": "5"})
    place = NodeSetup(wrapper=("netlab", "exec", "1"))

    both = disk.with_(clock).with_(place)

    assert both.wrapper == ("netlab", "exec", "1", "unshare", "-T")
    assert both.data_dir == Path("/mnt/1")
    assert both.environment == {"LD_PRELOAD": "a.so b.so", "SKEW": "5"}


def test_two_faults_that_want_different_disks_are_told_so() -> None:
    with pytest.raises(SetupConflictError, match="data in /mnt/1 and in /mnt/2"):
        NodeSetup(data_dir=Path("/mnt/1")).with_(NodeSetup(data_dir=Path("/mnt/2")))


def test_two_faults_that_want_one_variable_differently_are_told_so() -> None:
    with pytest.raises(SetupConflictError, match="two values for SKEW"):
        NodeSetup(environment={"SKEW": "5"}).with_(NodeSetup(environment={"SKEW": "6"}))


async def nothing() -> bool | None:
    return None


async def test_a_node_is_started_through_its_wrapper_on_the_disk_it_was_given(
    tmp_path: Path,
) -> None:
    disk, marks = tmp_path / "disk", tmp_path / "marks"
    show = ("-c", "import os, sys; print(os.environ['MARK'], sys.argv[1:], flush=True)")

    def setup(node_id: str) -> NodeSetup:
        return NodeSetup(
            wrapper=("env", f"MARK={node_id} was wrapped"), data_dir=disk / node_id, launcher=show
        )

    cluster = ProcessCluster(marks, nodes=1, setup=setup)
    broker = cluster.brokers["n1"]
    broker.start()
    with pytest.raises(FactMissingError, match="n1 ended by itself with code 0"):
        await cluster.await_fact("its end", nothing, within_s=PATIENCE_S)
    await cluster.close()

    assert broker.data_dir == disk / "n1"
    assert "n1 was wrapped ['serve', '--config'" in broker.log_tail()
