"""What a node does about a disk that fills up or takes its time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tq_cluster.node.disk_watch import AGAIN_S, SLOW_FSYNCS, SLOW_WITHIN_S, DiskWatch
from tq_cluster.raft.log_api import LogStatus, PeerProgress, Role
from tq_cluster.storage.headroom import Headroom

MIB = 1 << 20


class Bench:
    """A node n1 among three, whose disk and peers the test sets."""

    def __init__(self, folder: Path) -> None:
        self.free = 1_000 * MIB
        self.role = Role.LEADER
        self.durable_index = 8
        """n3 has entry 9 on its disk."""
        self.low_peers: set[str] = set()
        self.lost_peers: set[str] = set()
        self.asked: list[str | None] = []
        self.failures: list[BaseException] = []
        self.watch = DiskWatch(
            Headroom(
                folder,
                reserve_bytes=100 * MIB,
                ballast_bytes=MIB,
                free=lambda _folder: self.free,
            ),
            members=3,
            hand_over=self.hand_over,
            fatal=self.failures.append,
        )

    def status(self) -> LogStatus:
        peers = {
            name: PeerProgress(
                connected=name not in self.lost_peers,
                match_index=match,
                wall_offset_ms=0,
                disk_low=name in self.low_peers,
            )
            for name, match in (("n2", 7), ("n3", 9))
        }
        return LogStatus(
            role=self.role,
            term=1,
            leader_id="n1",
            last_index=9,
            durable_index=self.durable_index,
            commit_index=9,
            applied_index=9,
            journal_bytes=0,
            peers=peers,
        )

    async def hand_over(self, target_id: str | None, within_s: float) -> str:
        self.asked.append(target_id)
        return target_id or "n2"

    async def tick(self, fsync_running_s: float = 0.0) -> bool:
        """One tick, and whether new tasks are refused after it."""
        self.watch.tick(self.status(), fsync_running_s)
        for _ in range(3):
            await asyncio.sleep(0)
        return self.watch.pressure


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_new_tasks_are_refused_once_fewer_than_a_majority_have_room(bench: Bench) -> None:
    refused = []
    for low in (set[str](), {"n2"}, {"n2", "n3"}, {"n2"}):
        bench.low_peers = low
        refused.append(await bench.tick())

    assert refused == [False, False, True, False]


async def test_a_peer_that_is_away_counts_as_one_without_room(bench: Bench) -> None:
    bench.lost_peers, bench.low_peers = {"n2"}, {"n3"}

    assert await bench.tick()


async def test_a_leader_that_is_connected_to_no_majority_does_not_blame_the_disks(
    bench: Bench,
) -> None:
    bench.lost_peers = {"n2", "n3"}
    assert not await bench.tick()

    bench.free = 99 * MIB
    assert await bench.tick()


async def test_a_leader_without_room_has_the_best_of_those_that_have_some_lead(
    bench: Bench,
) -> None:
    bench.free = 99 * MIB

    assert not await bench.tick()
    assert bench.asked == ["n3"]
    assert bench.watch.message == ("the disk is nearly full: 99 MiB free, its ballast is given up")


async def test_a_leader_stays_where_no_other_disk_has_more_room(bench: Bench) -> None:
    bench.free, bench.low_peers = 99 * MIB, {"n2"}

    assert await bench.tick()
    assert bench.asked == []


async def test_an_fsync_that_does_not_end_makes_the_leader_hand_over_before_it_ends(
    bench: Bench,
) -> None:
    await bench.tick(fsync_running_s=0.9)
    assert bench.asked == []

    await bench.tick(fsync_running_s=1.05)

    assert bench.asked == [None]


async def test_a_follower_has_nothing_to_hand_over(bench: Bench) -> None:
    bench.role, bench.free = Role.FOLLOWER, 99 * MIB

    await bench.tick(fsync_running_s=3.0)

    assert bench.asked == []


async def test_a_slow_disk_leads_on_where_no_other_is_faster(bench: Bench) -> None:
    bench.durable_index = 9

    await bench.tick(fsync_running_s=3.0)

    assert bench.asked == []


async def test_where_every_disk_is_slow_leadership_does_not_go_round_and_round(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        await bench.tick(fsync_running_s=1.2)
    assert bench.asked == [None]

    loop = asyncio.get_running_loop()
    later_s = loop.time() + AGAIN_S
    monkeypatch.setattr(loop, "time", lambda: later_s)
    await bench.tick(fsync_running_s=1.2)

    assert bench.asked == [None, None]


async def test_a_slow_fsync_unseats_nobody_and_several_within_seconds_do(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now_s)

    async def slow_fsync() -> None:
        for running_s in (0.1, 0.5, 0.6):
            await bench.tick(fsync_running_s=running_s)

    for _ in range(2 * SLOW_FSYNCS):
        await slow_fsync()
        now_s += SLOW_WITHIN_S / (SLOW_FSYNCS - 1) + 0.1
    assert bench.asked == []

    for _ in range(SLOW_FSYNCS):
        await slow_fsync()

    assert bench.asked == [None]


async def test_ballast_is_laid_down_beside_the_loop(bench: Bench, tmp_path: Path) -> None:
    await bench.tick()

    async with asyncio.timeout(PATIENCE_S):
        while not (tmp_path / "ballast").exists():  # noqa: ASYNC110 - a thread makes it
            await asyncio.sleep(0.01)

    assert bench.failures == []
    assert bench.watch.message == ""
