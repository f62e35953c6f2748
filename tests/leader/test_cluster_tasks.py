"""What a leader does for the cluster itself: raising its version, comparing the members' states."""

from __future__ import annotations

import asyncio

import pytest

from tests.leader.bench import Bench, claimed, start, submit
from tests.patience import PATIENCE_S
from tests.scopes import scope_of
from tests.service.fakes import until
from tq.v1 import cluster_service_pb2 as pb
from tq.v1 import worker_service_pb2
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.housekeeping import backfill
from tq_cluster.core.invariants import violations
from tq_cluster.core.kernel import kept_tables, ready_order
from tq_cluster.core.model.operations import (
    ANONYMOUS,
    Claim,
    Filled,
    FormCluster,
    Refused,
    Replied,
)
from tq_cluster.core.reads import queries
from tq_cluster.errors import StateDiffersError
from tq_cluster.leader import cluster_tasks
from tq_cluster.raft.log_api import PeerProgress
from tq_cluster.storage.hashing import HashedRange

PEER = PeerProgress(connected=True, match_index=0, wall_offset_ms=0)
START = pb.VerifyStateRequest(start=True)
LOOK = pb.VerifyStateRequest()


class Compared(Bench):
    """A leader of three members, whose others answer as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.log.peers = {"n2": PEER, "n3": PEER}
        self.hashed: list[HashedRange] = []
        self.store.on_hashed = self._note

    def _note(self, found: HashedRange) -> None:
        self.hashed.append(found)
        self.leader.hashed(found)

    async def formed(self, version: int = CLUSTER_VERSION) -> None:
        """It leads a cluster of that version."""
        await self.log.start()
        members = {"n1": "i1", "n2": "i2", "n3": "i3"}
        await self.leader.submit(
            FormCluster(cluster_id="c", members=members, cluster_version=version, wall_ms=0)
        )

    def answer(self, node_id: str, found: HashedRange, digest: bytes | None = None) -> None:
        self.log.hash_listener(node_id, found.index, found.digest if digest is None else digest)

    async def look(self, request: pb.VerifyStateRequest = LOOK) -> pb.VerifyStateResponse:
        answer = await self.leader.verify_state(request)
        assert isinstance(answer, Replied)
        assert isinstance(answer.reply, pb.VerifyStateResponse)
        return answer.reply

    async def a_range(self) -> HashedRange:
        """The first range of a pass that was asked for."""
        await self.leader.verify_state(START)
        await until(lambda: bool(self.hashed), "a range was hashed")
        return self.hashed[0]

    async def a_pass(self) -> pb.VerifyStateResponse:
        """A pass from its beginning to its end, and what is said of it."""
        before = await self.look(START)
        seen = before
        async with asyncio.timeout(PATIENCE_S):
            while seen.last_finished_at.ToNanoseconds() <= before.last_began_at.ToNanoseconds():
                await asyncio.sleep(0)
                seen = await self.look()
        return seen


@pytest.fixture
async def bench() -> Compared:
    return Compared()


def small_ranges(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr("tq_cluster.leader.committer.HASH_ROWS_MAX", rows)


@pytest.mark.slow
async def test_a_pass_hashes_every_row_of_the_state_once(
    bench: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_ranges(monkeypatch, 7)
    await bench.formed()
    await bench.leader.submit(submit(*(f"t{number}" for number in range(20))))

    seen = await bench.a_pass()

    # What is written to go on, a row that is rewritten with every range, is among the first.
    assert seen.last_rows == sum(found.rows for found in bench.hashed) == seen.rows_total
    assert len(bench.hashed) > 10
    assert {found.rows for found in bench.hashed[:-1]} == {7}
    assert [each.node_id for each in seen.nodes] == ["n1", "n2", "n3"]
    assert seen.nodes[1].unanswered_index == bench.hashed[-1].index


async def test_a_member_that_differs_from_the_majority_is_told_to_stop(bench: Compared) -> None:
    await bench.formed()
    found = await bench.a_range()

    bench.answer("n2", found, b"something else")
    assert bench.log.stopped == []
    bench.answer("n3", found)

    [(stopped, message)] = bench.log.stopped
    assert stopped == "n2"
    assert "the state of n2 is not the majority's" in message
    seen = await bench.look()
    assert [each.node_id for each in seen.differences] == ["n2"]
    assert bench.fatal == []


async def test_a_leader_that_differs_from_the_majority_stops_itself(bench: Compared) -> None:
    await bench.formed()
    found = await bench.a_range()

    bench.answer("n2", found, b"what the others have")
    bench.answer("n3", found, b"what the others have")

    [error] = bench.fatal
    assert isinstance(error, StateDiffersError)
    assert bench.log.stopped == []


async def test_where_no_majority_agrees_nobody_is_stopped_and_it_is_said(bench: Compared) -> None:
    await bench.formed()
    found = await bench.a_range()

    bench.answer("n2", found, b"this")
    bench.answer("n3", found, b"that")

    assert (bench.log.stopped, bench.fatal) == ([], [])
    seen = await bench.look()
    [difference] = seen.differences
    assert "no majority agrees" in difference.message


async def test_two_that_differ_are_told_of_when_the_third_does_not_answer(
    bench: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_tasks, "LOOK_S", 0.0)
    await bench.formed()
    found = await bench.a_range()

    bench.answer("n2", found, b"this")
    seen = await bench.look()
    assert seen.differences == []
    await until(lambda: bool(bench.leader._cluster_tasks._scrub.differences), "it is said")

    assert (bench.log.stopped, bench.fatal) == ([], [])
    bench.answer("n3", found)
    assert [node_id for node_id, _ in bench.log.stopped] == ["n2"]


async def test_a_new_pass_settles_what_the_last_one_found_and_was_owed(bench: Compared) -> None:
    await bench.formed()
    found = await bench.a_range()
    bench.answer("n2", found, b"something else")
    bench.answer("n3", found)

    bench.hashed.clear()
    again = await bench.a_range()
    bench.answer("n2", again)
    bench.answer("n3", again)

    seen = await bench.look()
    assert [(each.node_id, each.earlier) for each in seen.differences] == [("n2", True)]
    assert [each.ranges_agreed for each in seen.nodes] == [1, 1, 1]
    assert [each.unanswered_index for each in seen.nodes] == [0, 0, 0]


async def test_members_that_agree_are_counted_whenever_they_answer(bench: Compared) -> None:
    await bench.formed()
    found = await bench.a_range()

    bench.answer("n3", found)
    bench.answer("n2", found)
    bench.answer("n9", found, b"no member")

    seen = await bench.look()
    assert [each.ranges_agreed for each in seen.nodes] == [1, 1, 1]
    assert [each.unanswered_index for each in seen.nodes] == [0, 0, 0]
    assert seen.differences == []


async def test_an_answer_that_comes_before_the_leaders_own_counts(bench: Compared) -> None:
    await bench.formed()
    early = HashedRange(bench.store.applied.index + 1, b"", 0, None)
    bench.log.hash_listener("n2", early.index, b"differs")
    found = await bench.a_range()
    assert found.index == early.index

    bench.answer("n3", found)

    assert [node_id for node_id, _ in bench.log.stopped] == ["n2"]


async def test_the_background_covers_the_state_without_being_asked(
    bench: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_S", "RANGE_S"):
        monkeypatch.setattr(cluster_tasks, name, 0.0)
    await bench.formed()

    await until(lambda: bool(bench.hashed), "a range was hashed")


async def test_a_new_leader_goes_on_where_the_pass_was(
    bench: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_ranges(monkeypatch, 3)
    await bench.formed()
    await bench.leader.submit(submit(*(f"t{number}" for number in range(20))))
    await bench.a_range()
    await until(lambda: len(bench.hashed) > 3, "some ranges")
    bench.log.depose()
    interrupted = bench.hashed[-1]
    bench.hashed.clear()

    bench.log.elect()
    await until(lambda: bool(bench.hashed), "the pass goes on")

    assert bench.hashed[0].rows == interrupted.rows
    assert bench.hashed[0].next == interrupted.next
    assert bench.hashed[0].digest != b""


async def test_nothing_is_hashed_below_the_version_that_every_node_can(bench: Compared) -> None:
    bench.log.version = 1
    await bench.formed(version=1)

    refused = await bench.leader.verify_state(START)
    for number in range(20):
        await bench.leader.submit(submit("t", request_id=f"r{number}"))

    assert bench.hashed == []
    assert isinstance(refused, Refused)
    assert "start needs cluster version 2, this is 1; upgrade every broker" in refused.message
    assert queries.cluster_version(bench.store.view()) == 1


@pytest.mark.slow
async def test_the_version_is_raised_once_every_member_can(bench: Compared) -> None:
    bench.log.version = None  # a member has not said
    await bench.formed(version=1)
    await bench.leader.submit(submit("t"))
    assert queries.cluster_version(bench.store.view()) == 1

    bench.log.version = CLUSTER_VERSION
    await until(
        lambda: queries.cluster_version(bench.store.view()) == CLUSTER_VERSION, "it is raised"
    )
    proposed = len(bench.log.proposals)
    await bench.leader.submit(submit("t", request_id="r2"))
    assert len(bench.log.proposals) == proposed + 1


async def need_types(bench: Compared, of: str = "of no task") -> None:
    """Raise the version, and have a claim that is in need of the index by type."""
    bench.log.version = CLUSTER_VERSION
    await until(
        lambda: queries.cluster_version(bench.store.view()) == CLUSTER_VERSION, "it is raised"
    )
    request = worker_service_pb2.ClaimRequest(worker_id="v", queues=["q"], types=[of], max_tasks=1)
    assert claimed(await bench.leader.claim(Claim(request=request), 0, 0.0)) == []


@pytest.mark.slow
async def test_a_table_is_filled_once_a_claim_is_in_need_of_it_by_whoever_leads(
    bench: Compared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tq_cluster.leader.cluster_tasks")
    monkeypatch.setattr(cluster_tasks, "FILL_ROWS", 3)
    bench.log.version = 2
    await bench.formed(version=2)
    await bench.leader.submit(submit(*(f"t{number}" for number in range(20))))
    await need_types(bench)

    def filled() -> int:
        return kept_tables.progress(bench.store.view()).rows

    await until(lambda: filled() > 5, "some slices")
    bench.log.depose()
    bench.log.elect()
    await until(lambda: not backfill.is_under_way(bench.store.view()), "the rest")
    # The leader hears of an entry that it has applied some turns of the loop later.
    await until(lambda: bool(caplog.records), "the leader to have heard of it")

    assert violations(scope_of(bench.store.view())) == []
    assert [record.message for record in caplog.records] == ["tables are filled"]


@pytest.mark.slow
async def test_no_table_is_filled_while_disks_are_full(
    bench: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_tasks, "FILL_S", 0.0)
    bench.disk_pressure = True
    bench.log.version = 2
    await bench.formed(version=2)
    bench.disk_pressure = False
    await bench.leader.submit(submit("t"))
    bench.disk_pressure = True
    await need_types(bench)
    for number in range(20):
        beat = worker_service_pb2.HeartbeatRequest(worker_id=f"w{number}")
        await bench.leader.heartbeat(beat, ANONYMOUS)
    assert backfill.is_under_way(bench.store.view())

    bench.disk_pressure = False
    await until(lambda: not backfill.is_under_way(bench.store.view()), "there is room again")


@pytest.mark.slow
async def test_those_who_wait_for_a_type_look_again_once_the_table_is_filled(
    bench: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready_order, "SEARCH_ROWS_MAX", 2)
    bench.log.version = 2
    await bench.formed(version=2)
    await bench.leader.submit(submit("x", "x", "x", "x", "y"))
    request = worker_service_pb2.ClaimRequest(worker_id="w", queues=["q"], types=["y"], max_tasks=1)
    waiting = await start(bench.leader.claim(Claim(request=request), 30, 0.0))
    assert not waiting.done(), "it looks no further than it may"

    await need_types(bench)
    assert [task.spec.type for task in claimed(await waiting)] == ["y"]


async def test_filling_leaves_the_log_to_the_callers_for_most_of_the_time(
    bench: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_tasks, "FILL_S", 0.0)
    found = bench.leader._cluster_tasks
    [filling] = [source for source in found.sources() if source.kind == "backfill"]
    found.begin()
    found._fills = True
    assert filling.first(()) is not None
    filling.operation(500, frozenset())
    asked_s = found._fill_asked_s = found._fill_asked_s - 4.0

    # The ticker looks whether anything is due while the entry is on its way, too.
    filling.first(())
    found.filled(Filled(500, complete=False))

    # The slice took 4 s until it was applied.
    assert found._fill_at_s >= asked_s + 4.0 / cluster_tasks.FILL_SHARE
