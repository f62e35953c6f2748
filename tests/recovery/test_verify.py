"""tq-admin verify over real nodes: they agree, or the one that differs stops and is rebuilt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.recovery.test_backup_and_restore import admin, claim, rows_of, submit
from tests.service.fakes import until
from tests.service.trio import Trio, trio
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.reads import queries
from tq_cluster.core.rows import tables
from tq_cluster.errors import StateDiffersError
from tq_cluster.storage.rows import CorruptRowError, seal


async def at_work(nodes: Trio) -> tuple[str, list[str]]:
    """A cluster that holds tasks, by the newest rules; who leads, and who follows."""
    leader_id = await nodes.await_leader()
    async with nodes.stubs(leader_id) as stubs:
        await submit(stubs, "s1", *(f"t{number}" for number in range(40)))
        await claim(stubs, 3)
    store = nodes.nodes[leader_id].group.store
    await until(
        lambda: queries.cluster_version(store.view()) == CLUSTER_VERSION, "the newest rules"
    )
    followers = [name for name in nodes.nodes if name != leader_id]
    for name in followers:
        await nodes.caught_up(name)
    return leader_id, followers


def a_row(nodes: Trio, node_id: str) -> tuple[bytes, bytes]:
    """Key and value of some task's spec."""
    view = nodes.nodes[node_id].group.store.view()
    return next(iter(view.scan(tables.SPECS, b"\0", b"\xff", limit=1)))


def forge(nodes: Trio, node_id: str) -> None:
    """Have one node's disk say something else, as soundly as it says the rest."""
    store = nodes.nodes[node_id].group.store
    key, value = a_row(nodes, node_id)
    forged = seal(tables.SPECS, key, value[:-1] + bytes([value[-1] ^ 1]))
    store._txn.put(key, forged, db=store._tables[tables.SPECS])


def damage(nodes: Trio, node_id: str) -> None:
    """Flip a bit of a row on one node's disk."""
    store = nodes.nodes[node_id].group.store
    key, value = a_row(nodes, node_id)
    sealed = bytearray(seal(tables.SPECS, key, value))
    sealed[len(sealed) // 2] ^= 1
    store._txn.put(key, bytes(sealed), db=store._tables[tables.SPECS])


async def made_anew(nodes: Trio, node_id: str) -> None:
    """Start again a node that stopped, and wait until its state is the others'."""
    nodes.nodes[node_id].group.replica._engine.stop()  # as the end of the process would
    await nodes.stop(node_id)
    await nodes.start(node_id)
    await nodes.caught_up(node_id)
    assert await asyncio.to_thread(
        lambda: list(nodes.configs[node_id].data_dir.glob("damaged-state-*"))
    )
    # A pass may still be under way, and writes how far it is: they are equal between its entries.
    await until(lambda: are_equal(nodes), "the states are equal")


def are_equal(nodes: Trio) -> bool:
    """Whether all nodes hold the same rows now."""
    first, *others = (rows_of(node) for node in nodes.nodes.values())
    return all(each == first for each in others)


@pytest.mark.slow
async def test_brokers_at_work_are_found_to_agree_on_every_row(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        leader_id, _ = await at_work(nodes)
        working = asyncio.ensure_future(work(nodes, leader_id))
        ran = await admin(nodes, "verify", "-o", "json")
        working.cancel()
        shown = await admin(nodes, "verify", "--status")

    assert (ran.code, ran.stderr) == (0, "")
    assert ran.json["differences"] == []
    assert ran.json["last_rows"] > 40 * 5
    [agreed] = {each["ranges_agreed"] for each in ran.json["nodes"]}
    assert agreed > 0
    assert "none" in shown.stdout


async def work(nodes: Trio, node_id: str) -> None:
    """Submit until cancelled."""
    async with nodes.stubs(node_id) as stubs:
        number = 0
        while True:
            number += 1
            await submit(stubs, f"w{number}", f"w{number}")


@pytest.mark.slow
async def test_a_follower_that_differs_stops_and_is_made_anew(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        _, [wrong, _] = await at_work(nodes)
        forge(nodes, wrong)

        ran = await admin(nodes, "verify")
        await until(lambda: bool(nodes.errors), "the follower stops")
        [error] = nodes.errors
        nodes.errors.clear()
        await made_anew(nodes, wrong)
        again = await admin(nodes, "verify", "-o", "json")
        shown = await admin(nodes, "verify", "--status")

    assert ran.code == 1
    assert f"the state of {wrong} is not the majority's in table" in ran.stderr
    assert isinstance(error, StateDiffersError)
    assert f"the state of {wrong} is not the majority's" in str(error)
    # The leader has not forgotten what it found, nor does it hold that against the new state.
    assert [(each["node_id"], each["earlier"]) for each in again.json["differences"]] == [
        (wrong, True)
    ]
    assert (again.code, shown.code) == (0, 0), (again.stderr, shown.stderr)
    assert "none" in shown.stdout
    assert f"the state of {wrong} is not the majority's" in shown.stdout


@pytest.mark.slow
async def test_a_leader_that_differs_stops_and_another_leads(tmp_path: Path) -> None:
    async with trio(tmp_path) as nodes:
        leader_id, _ = await at_work(nodes)
        forge(nodes, leader_id)

        verifying = asyncio.ensure_future(admin(nodes, "verify"))
        await until(lambda: bool(nodes.errors), "the leader stops")
        [error] = nodes.errors
        nodes.errors.clear()
        await made_anew(nodes, leader_id)
        ran = await verifying

    assert isinstance(error, StateDiffersError)
    # The current leader has gone on with the pass, and all that it compared agrees.
    assert ran.code == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("leads", [True, False])
async def test_a_node_whose_row_is_damaged_finds_it_itself_and_is_made_anew(
    tmp_path: Path, leads: bool
) -> None:
    async with trio(tmp_path) as nodes:
        leader_id, [follower, _] = await at_work(nodes)
        wrong = leader_id if leads else follower
        damage(nodes, wrong)

        async with nodes.stubs(leader_id) as stubs:
            verifying = asyncio.ensure_future(admin(nodes, "verify"))
            await until(lambda: bool(nodes.errors), "the node stops")
            errors, nodes.errors = nodes.errors, []
            assert stubs is not None
        await made_anew(nodes, wrong)
        await verifying

    assert {type(error) for error in errors} == {CorruptRowError}
    assert "fail their CRC" in str(errors[0])
