"""tq-cluster recover: a majority of the disks is gone, and what is left becomes a new cluster."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.recovery.test_backup_and_restore import claim, rows_of, submit
from tests.scopes import scope_of
from tests.service.fakes import until
from tests.service.trio import Trio, trio
from tests.storage.test_crash import PAGE_BYTES, make_deadly
from tests.test_node import run
from tq.v1 import (
    cluster_service_pb2,
    queue_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_service_pb2,
)
from tq_cluster.clock import SystemClock
from tq_cluster.core.invariants import violations
from tq_cluster.errors import FatalError, StartError
from tq_cluster.offline.recovering import recover
from tq_cluster.offline.restore import restore
from tq_cluster.raft.disk import FileDisk
from tq_cluster.raft.identity import read_identity
from tq_cluster.raft.inspection import inspect
from tq_cluster.raft.journal import Journal
from tq_cluster.raft.pysyncobj_core import NO_OP
from tq_cluster.raft.records import Vote
from tq_cluster.raft.startup import open_data
from tq_cluster.raft.syncer import InlineSyncer
from tq_cluster.storage.backup import Maker
from tq_cluster.storage.lock import DirectoryLock
from tq_cluster.storage.snapshot import NoRoomError
from tq_cluster.storage.store import Store
from tq_common.limits import TERM_STEP_MAX

ReportResult = worker_service_pb2.ReportResult


class Lost:
    """A cluster of which the disk of one node is left, and what its clients and workers know."""

    def __init__(self, folder: Path, left: str, newest_token: int) -> None:
        self.disk = folder / "old" / left
        self.newest_token = newest_token
        identity = read_identity(self.disk)
        assert identity is not None
        self.cluster_id = identity.cluster_id


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {"node.lock", "store.lock", "lock.mdb"}
    }


async def lost(folder: Path) -> Lost:
    """Task `done` is completed, `runs` and `b` are claimed, `waits` is not; two disks are lost."""
    async with trio(folder / "old") as nodes:
        leader_id = await nodes.await_leader()
        left = next(name for name in nodes.nodes if name != leader_id)
        async with nodes.stubs(leader_id) as stubs:
            await submit(stubs, "s1", "done", "runs", "b", "waits")
            tasks = [*await claim(stubs, 1), *await claim(stubs, 1), *await claim(stubs, 1)]
            report = worker_service_pb2.ReportRequest(worker_id="w")
            report.reports.add(task_id="done", token=tasks[0].token).complete.result = b"r"
            await stubs.worker.Report(report, timeout=PATIENCE_S)
        await nodes.caught_up(left)
    for name in nodes.configs:
        if name != left:
            shutil.rmtree(nodes.configs[name].data_dir)
    return Lost(folder, left, tasks[-1].token)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Lost:
    """One for all tests: a recovery only reads."""
    return asyncio.run(lost(tmp_path_factory.mktemp("lost")))


def recovered(disk: Path, target: Path, *more: str) -> str:
    """Look, and then agree by the cluster's id, as an operator does."""
    looked = run("recover", "--disk", str(disk))
    assert looked.returncode == 0, looked.stderr
    assert "Nothing was changed." in looked.stdout
    [cluster_id] = set(re.findall(r"of cluster ([0-9a-f]+)", looked.stdout))
    done = run(
        *("recover", "--disk", str(disk), "--backup", str(target), "--yes", cluster_id, *more)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def state(nodes: Trio, task_id: str) -> task_pb2.Task:
    async with nodes.stubs("n1") as stubs:
        request = task_service_pb2.GetTaskRequest(task_id=task_id)
        return (await stubs.tasks.GetTask(request, timeout=PATIENCE_S)).task


@pytest.mark.slow
async def test_tasks_that_ran_are_quarantined_and_the_others_go_on(
    tmp_path: Path, old: Lost
) -> None:
    before = content(old.disk)
    said = await asyncio.to_thread(recovered, old.disk, tmp_path / "out")
    assert content(old.disk) == before
    report = json.loads((tmp_path / "out.report.json").read_text())

    nodes = Trio(tmp_path / "new")
    for config in nodes.configs.values():
        restore(tmp_path / "out", config, SystemClock())
    async with trio(tmp_path / "new", nodes) as nodes:
        await nodes.await_leader()
        async with nodes.stubs("n1") as stubs:
            [task] = await claim(stubs, 10)
            letters = await stubs.queues.ListDeadLetters(
                queue_service_pb2.ListDeadLettersRequest(), timeout=PATIENCE_S
            )
            late = worker_service_pb2.ReportRequest(worker_id="w")
            late.reports.add(task_id="b", token=old.newest_token).complete.result = b"late"
            reported = await stubs.worker.Report(late, timeout=PATIENCE_S)
            redriven = await stubs.queues.Redrive(
                queue_service_pb2.RedriveRequest(task_ids=["runs"], request_id="r"),
                timeout=PATIENCE_S,
            )
        done = await state(nodes, "done")
        for name in nodes.nodes:
            await nodes.caught_up(name)
        states = [rows_of(node) for node in nodes.nodes.values()]
        wrong = violations(scope_of(nodes.nodes["n1"].group.store.view()))

    assert "2 tasks ran when the cluster was lost" in said
    assert report["uncertain_task_ids"] == ["runs", "b"]
    assert report["certain_up_to_entry"] <= report["kept_up_to_entry"]
    assert task.spec.task_id == "waits"
    assert task.token > old.newest_token
    assert {each.spec.task_id for each in letters.tasks} == {"runs", "b"}
    assert {each.failure_reason for each in letters.tasks} == {task_pb2.FAILURE_REASON_UNCERTAIN}
    assert reported.results[0].status == ReportResult.STATUS_LEASE_LOST
    assert redriven.redriven == 1
    assert (done.state, done.result) == (task_pb2.TASK_STATE_COMPLETED, b"r")
    assert wrong == []
    assert states[0] == states[1] == states[2]


@pytest.mark.slow
async def test_paused_queues_run_nothing_before_an_operator_has_looked(
    tmp_path: Path, old: Lost
) -> None:
    said = await asyncio.to_thread(recovered, old.disk, tmp_path / "out", "--pause-queues")

    nodes = Trio(tmp_path / "new")
    for config in nodes.configs.values():
        restore(tmp_path / "out", config, SystemClock())
    async with trio(tmp_path / "new", nodes) as nodes:
        await nodes.await_leader()
        async with nodes.stubs("n1") as stubs:
            stats = await stubs.queues.GetQueueStats(
                queue_service_pb2.GetQueueStatsRequest(queue="q"), timeout=PATIENCE_S
            )

    assert "Every queue is paused" in said
    assert stats.stats.settings.paused
    assert stats.stats.pending == 1


@pytest.mark.slow
async def test_what_the_journal_holds_beyond_the_state_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut: the state was committed last before the task came."""
    async with trio(tmp_path / "old") as nodes:
        leader_id = await nodes.await_leader()
        async with nodes.stubs(leader_id) as stubs:
            await submit(stubs, "s1", "early")
            for node in nodes.nodes.values():
                node.group.store.commit()
            durable = nodes.nodes[leader_id].group.store.durable.index
            for node in nodes.nodes.values():
                monkeypatch.setattr(node.group.store, "commit_due", lambda _now_s: False)
                monkeypatch.setattr(node.group.store, "commit", lambda: None)
            await submit(stubs, "s2", "late")
    disk = tmp_path / "old" / leader_id

    await asyncio.to_thread(recovered, disk, tmp_path / "out")

    report = json.loads((tmp_path / "out.report.json").read_text())
    assert report["certain_up_to_entry"] == durable
    assert report["kept_up_to_entry"] > durable
    nodes = Trio(tmp_path / "new")
    for config in nodes.configs.values():
        restore(tmp_path / "out", config, SystemClock())
    async with trio(tmp_path / "new", nodes) as nodes:
        await nodes.await_leader()
        assert (await state(nodes, "late")).state == task_pb2.TASK_STATE_PENDING


@pytest.mark.slow
async def test_recovery_is_refused_where_nothing_need_be_lost(tmp_path: Path) -> None:
    async with trio(tmp_path / "old") as nodes:
        await nodes.await_leader()
        async with nodes.stubs("n1") as stubs:
            await submit(stubs, "s1", "a")
        running = await asyncio.to_thread(run, "recover", "--disk", str(tmp_path / "old" / "n1"))
        for name in nodes.nodes:
            await nodes.caught_up(name)
    disks = [str(tmp_path / "old" / name) for name in ("n1", "n2")]

    refused = await asyncio.to_thread(run, "recover", "--disk", disks[0], "--disk", disks[1])

    assert running.returncode == 2
    assert "is in use: its node still runs" in running.stdout
    assert refused.returncode == 2
    assert "n1, n2 are a majority of n1, n2, n3: nothing is lost, start them" in refused.stderr


@pytest.mark.slow
async def test_a_damaged_disk_is_told_by_what_is_wrong_and_the_other_is_taken(
    tmp_path: Path, old: Lost
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(old.disk, damaged)
    (segment,) = sorted((damaged / "journal").glob("*.log"))[:1]
    broken = bytearray(segment.read_bytes())
    broken[60] ^= 1
    segment.write_bytes(broken)
    empty = tmp_path / "empty"
    empty.mkdir()

    arguments = [f"--disk={path}" for path in (damaged, empty, old.disk, tmp_path / "nowhere")]
    looked = await asyncio.to_thread(run, "recover", *arguments)

    assert looked.returncode == 0, looked.stderr
    assert f"{damaged}: cannot be used: the journal is damaged" in looked.stdout
    assert f"{empty}: cannot be used: holds no identity" in looked.stdout
    assert f"{tmp_path / 'nowhere'}: cannot be used: is no directory" in looked.stdout
    assert "What is certain: everything acknowledged until" in looked.stdout


@pytest.mark.slow
async def test_nothing_is_done_without_the_clusters_id_or_over_a_file(
    tmp_path: Path, old: Lost
) -> None:
    arguments = ["recover", "--disk", str(old.disk), "--backup", str(tmp_path / "out")]

    unasked = await asyncio.to_thread(run, *arguments)
    wrong = await asyncio.to_thread(run, *arguments, "--yes", "c-1")
    (tmp_path / "out").write_text("mine")
    taken = await asyncio.to_thread(run, *arguments)

    assert (unasked.returncode, wrong.returncode, taken.returncode) == (2, 2, 2)
    assert "say so beforehand with --yes" in unasked.stderr
    assert "is not this cluster's id" in wrong.stderr
    assert "exists already" in taken.stderr
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.slow
async def test_a_disk_that_was_replaced_is_no_survivor(tmp_path: Path) -> None:
    """It was away and does not know: counted, it would make a majority that cannot start."""
    async with trio(tmp_path / "old") as nodes:
        leader_id = await nodes.await_leader()
        lost_id, kept_id = [name for name in nodes.configs if name != leader_id]
        async with nodes.stubs(leader_id) as stubs:
            await submit(stubs, "s1", "a")
        await nodes.caught_up(lost_id)
        await nodes.stop(lost_id)
        aside = tmp_path / "aside"
        nodes.configs[lost_id].data_dir.rename(aside)
        await nodes.start(lost_id)
        await until(
            lambda: lost_id in nodes.nodes[leader_id].group.replica.status().strangers, "a stranger"
        )
        async with nodes.stubs(leader_id) as stubs:
            request = cluster_service_pb2.ReplaceNodeRequest(node_id=lost_id)
            await stubs.cluster.ReplaceNode(request, timeout=PATIENCE_S)
        await nodes.caught_up(kept_id)
    kept = tmp_path / "old" / kept_id

    looked = await asyncio.to_thread(run, "recover", f"--disk={kept}", f"--disk={aside}")

    assert looked.returncode == 0, looked.stderr
    assert f"the disk of {kept_id} has most" in looked.stdout
    assert f"as {lost_id}'s: this one was replaced" in looked.stdout


@pytest.mark.slow
async def test_a_disk_whose_state_alone_is_damaged_is_to_be_started_first(tmp_path: Path) -> None:
    """With its journal a majority is left: it takes the other's state, and nothing is lost."""
    async with trio(tmp_path / "old") as nodes:
        await nodes.await_leader()
        async with nodes.stubs("n1") as stubs:
            await submit(stubs, "s1", "a")
        for name in nodes.nodes:
            await nodes.caught_up(name)
        nodes.nodes["n1"].group.store.quarantine("table 5 fails its CRC")
    disks = [f"--disk={tmp_path / 'old' / name}" for name in ("n1", "n2")]

    looked = await asyncio.to_thread(run, "recover", *disks)

    assert looked.returncode == 0, looked.stderr
    assert "cannot be used: the state in" in looked.stdout
    assert "Before anything else: start n1, n2. The state of n1 is damaged" in looked.stdout

    nodes.errors.clear()
    for name in ("n1", "n2"):
        await nodes.start(name)
    await nodes.await_leader()
    assert (await state(nodes, "a")).state == task_pb2.TASK_STATE_PENDING
    for name in ("n1", "n2"):
        await nodes.stop(name)


@pytest.mark.slow
async def test_a_state_that_was_cut_short_is_told_and_ends_nothing(
    tmp_path: Path, old: Lost
) -> None:
    short = tmp_path / "short"
    shutil.copytree(old.disk, short)
    [state_file] = short.glob("state-*/data.mdb")
    with state_file.open("r+b") as file:
        file.truncate(3 * 4_096)

    looked = await asyncio.to_thread(run, "recover", f"--disk={short}", f"--disk={old.disk}")

    assert looked.returncode == 0, (looked.returncode, looked.stderr)
    assert "was cut short" in looked.stdout
    assert "Before anything else" not in looked.stdout
    assert f"{old.disk}: node" in looked.stdout


@pytest.mark.slow
def test_a_state_that_ends_whoever_reads_it_is_told_and_ends_no_recovery(
    tmp_path: Path, old: Lost
) -> None:
    told = {}
    for what, key in (("everything", b""), ("a task", b"waits")):
        disk = tmp_path / what
        shutil.copytree(old.disk, disk)
        [state_file] = disk.glob("state-*/data.mdb")
        make_deadly(state_file, key)
        options = [f"--backup={tmp_path / 'out'}", f"--yes={old.cluster_id}"]
        done = run("recover", f"--disk={disk}", *options)
        told[what] = (done.returncode, done.stdout + done.stderr)

    assert {code for code, _ in told.values()} == {2}
    for _, text in told.values():  # which of the two goes by how the rows came to lie
        assert re.search("cannot be (used|recovered from): ", text)


@pytest.mark.slow
def test_a_commit_that_a_power_cut_tore_is_undone_and_taken_from_the_journal(
    tmp_path: Path, old: Lost
) -> None:
    disk = tmp_path / "disk"
    shutil.copytree(old.disk, disk)
    [state_file] = disk.glob("state-*/data.mdb")
    store = Store(state_file.parent)
    before = state_file.read_bytes()
    store.begin_commit()
    store.close()
    torn = bytearray(state_file.read_bytes())
    for page in range(2 * PAGE_BYTES, len(torn), PAGE_BYTES):
        if torn[page : page + PAGE_BYTES] != before[page : page + PAGE_BYTES]:
            torn[page : page + PAGE_BYTES] = bytes(PAGE_BYTES)
    state_file.write_bytes(torn)

    told = recovered(disk, tmp_path / "out")

    assert "cannot be used" not in told
    assert re.search("becomes? a backup", told)


@pytest.mark.slow
def test_what_a_recovery_that_was_cut_off_left_is_named(tmp_path: Path, old: Lost) -> None:
    (tmp_path / "out.recovering").mkdir()
    [cluster_id] = set(
        re.findall(r"of cluster ([0-9a-f]+)", run("recover", f"--disk={old.disk}").stdout)
    )

    again = run(
        *("recover", f"--disk={old.disk}", f"--backup={tmp_path / 'out'}", f"--yes={cluster_id}")
    )

    assert again.returncode == 2
    assert f"{tmp_path / 'out.recovering'} exists" in again.stderr
    assert "if none is, remove it and begin again" in again.stderr


@pytest.mark.slow
def test_nothing_is_written_to_a_disk_that_is_left(old: Lost) -> None:
    before = content(old.disk)

    refused = run("recover", f"--disk={old.disk}", f"--backup={old.disk / 'out'}", "--yes=x")

    assert refused.returncode == 2
    assert "is on a disk that is only to be read" in refused.stderr
    assert content(old.disk) == before


def test_no_broker_starts_on_a_disk_while_it_is_recovered_from(tmp_path: Path, old: Lost) -> None:
    survivor = inspect(old.disk)
    maker = Maker(node_id="n1", version="1", made_at_ms=0, backup_id="b")
    lock = DirectoryLock(old.disk / "node.lock")
    try:
        with pytest.raises(StartError, match="is in use: its node runs"):
            recover(survivor, tmp_path / "out", maker, pause_queues=False)
    finally:
        lock.release()

    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_cannot_be_made_of_a_disk_is_told_and_leaves_nothing(
    tmp_path: Path, old: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise NoRoomError("0 MiB free")

    monkeypatch.setattr("tq_cluster.offline.recovering.make_backup", full)
    maker = Maker(node_id="n1", version="1", made_at_ms=0, backup_id="b")

    with pytest.raises(StartError, match="cannot be recovered from: 0 MiB free"):
        recover(inspect(old.disk), tmp_path / "out", maker, pause_queues=False)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("reached", [False, True], ids=["named by a peer", "elections held in it"])
async def test_a_cluster_whose_terms_no_broker_starts_in_is_recovered_whole(
    tmp_path: Path, reached: bool
) -> None:
    """Brokers of the first version believed any term, and some were elected in one."""
    async with trio(tmp_path / "old") as nodes:
        await nodes.await_leader()
        async with nodes.stubs("n1") as stubs:
            await submit(stubs, "s1", "a")
        for name in nodes.nodes:
            await nodes.caught_up(name)
    disks = [tmp_path / "old" / name for name in ("n1", "n2", "n3")]
    for disk in disks:
        _poison(disk, entry_too=reached)

    with pytest.raises(StartError, match="what no cluster comes to"):
        open_data(
            disks[0],
            node_id="n1",
            draw=random.Random(1),
            syncer=InlineSyncer(),
            on_fatal=_never,
        )
    options = [option for disk in disks for option in ("--disk", str(disk))]
    identity = read_identity(disks[0])
    assert identity is not None
    target = tmp_path / "backup"
    done = await asyncio.to_thread(
        run, "recover", *options, "--backup", str(target), "--yes", str(identity.cluster_id)
    )

    assert done.returncode == 0, done.stderr
    restored = Trio(tmp_path / "new")
    for config in restored.configs.values():
        restore(target, config, SystemClock())
    async with trio(tmp_path / "new", restored) as restored:
        leader_id = await restored.await_leader()
        assert restored.nodes[leader_id].group.replica.status().term < TERM_STEP_MAX
        assert (await state(restored, "a")).state == task_pb2.TASK_STATE_PENDING


def _poison(disk: Path, *, entry_too: bool) -> None:
    """Write a term to the journal as a broker of the first version would have."""
    term = 2**63
    files = FileDisk(disk / "journal")
    journal = Journal(files, InlineSyncer(), on_fatal=_never)
    journal.set_vote(Vote(term, None))
    if entry_too:
        journal.add(NO_OP, journal.last_index + 1, term)
    journal.close()
    files.close()


def _never(error: FatalError) -> None:
    raise error
