"""At start the journal leads and the state follows, or the node does not start."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.raft.modelled_disk import ModelledDisk
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import DamagedStateError, FatalError, StartError
from tq_cluster.raft.identity import MemberList
from tq_cluster.raft.journal import Journal, JournalLimits
from tq_cluster.raft.records import Vote
from tq_cluster.raft.startup import Alignment, NodeData, align, open_data
from tq_cluster.raft.syncer import InlineSyncer
from tq_common.limits import TERM_MAX, TERM_STEP_MAX

MEMBERS = MemberList(incarnations={"n1": "one", "n2": "two", "n3": "three"})
SMALL = JournalLimits(segment_bytes=300, retain_bytes=300, retain_entries=5)


def fatal(error: FatalError) -> None:
    raise error


def journal_to(last: int, *, disk: ModelledDisk | None = None) -> Journal:
    """A log of entries 1 to ``last``, in term 0 and from entry 2 on in term 1."""
    journal = Journal(disk or ModelledDisk(), InlineSyncer(), on_fatal=fatal, limits=SMALL)
    for index in range(1, last + 1):
        journal.add(b"command", index, min(index - 1, 1))
    journal.sync_now()
    return journal


def opened(path: Path) -> NodeData:
    return open_data(
        path,
        node_id="n1",
        draw=random.Random(1),
        syncer=InlineSyncer(),
        on_fatal=fatal,
        limits=SMALL,
    )


def close(data: NodeData) -> None:
    data.journal.close()
    data.disk.close()
    data.store.close()
    data.directory.release()


def test_a_new_nodes_log_begins_with_the_entry_that_every_log_begins_with() -> None:
    disk = ModelledDisk()
    journal = journal_to(0, disk=disk)

    assert align(journal, AppliedAt(1, 0), None) is Alignment.REPLAY

    assert list(journal[:]) == [(b"", 1, 0)]
    assert journal.durable_last_index() == 1


def test_what_the_state_lacks_is_replayed_from_the_journal() -> None:
    journal = journal_to(9)

    assert align(journal, AppliedAt(5, 1), None) is Alignment.REPLAY

    assert journal.last_index == 9


def test_a_state_that_ends_with_the_journal_needs_nothing() -> None:
    assert align(journal_to(9), AppliedAt(9, 1), None) is Alignment.REPLAY


def test_a_state_from_before_the_journal_is_rebuilt_and_the_log_kept() -> None:
    journal = journal_to(60)
    journal.compact(60)
    kept = list(journal[:])

    assert align(journal, AppliedAt(1, 0), None) is Alignment.REBUILD

    assert list(journal[:]) == kept
    assert journal.first_index > 1


@pytest.mark.parametrize("mark", [None, AppliedAt(8, 1)])
def test_a_state_beyond_the_journal_is_refused(mark: AppliedAt | None) -> None:
    journal = journal_to(7)

    with pytest.raises(StartError, match=r"state ends at .*9.*journal at entry 7"):
        align(journal, AppliedAt(9, 1), mark)

    assert journal.last_index == 7


def test_a_state_of_another_history_is_refused() -> None:
    journal = journal_to(9)

    with pytest.raises(StartError, match="entry 5 is of term 1"):
        align(journal, AppliedAt(5, 3), None)


def test_a_state_whose_journal_is_gone_is_refused() -> None:
    with pytest.raises(StartError, match="journal is empty"):
        align(journal_to(0), AppliedAt(5, 3), None)


@pytest.mark.parametrize("applied", [AppliedAt(90, 4), AppliedAt(5, 4)])
def test_an_installed_snapshot_resets_a_journal_that_does_not_hold_it(applied: AppliedAt) -> None:
    disk = ModelledDisk()
    journal = journal_to(9, disk=disk)
    journal.setCurrentTerm(6, "n2")

    assert align(journal, applied, applied) is Alignment.REPLAY

    again = Journal(disk, InlineSyncer(), on_fatal=fatal)
    assert list(again[:]) == [(b"", applied.index, applied.term)]
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (6, "n2")


def test_an_installed_snapshot_leaves_a_journal_alone_that_holds_it() -> None:
    journal = journal_to(9)

    assert align(journal, AppliedAt(5, 1), AppliedAt(5, 1)) is Alignment.REPLAY

    assert journal.last_index == 9


def test_a_data_directory_is_opened_again_as_it_was_left(tmp_path: Path) -> None:
    data = opened(tmp_path)
    data.directory.join("c-1", MEMBERS)
    data.journal.add(b"", 2, 1)
    data.store.apply(2, 1, b"")
    data.store.commit()
    close(data)

    again = opened(tmp_path)

    assert again.store.applied == AppliedAt(2, 1)
    assert list(again.journal[:])[1:] == [(b"", 2, 1)]
    assert again.alignment is Alignment.REPLAY
    close(again)


def test_a_mark_is_cleared_once_the_journal_agrees(tmp_path: Path) -> None:
    data = opened(tmp_path)
    data.store.apply(2, 1, b"")
    data.store.commit()
    data.states.switch(data.states.current.path, AppliedAt(2, 1))
    close(data)

    again = opened(tmp_path)

    assert again.journal.first_index == 2
    assert again.states.current.installed is None
    close(again)


def test_a_refused_data_directory_is_let_go_of(tmp_path: Path) -> None:
    data = opened(tmp_path)
    data.store.apply(2, 1, b"")
    data.store.commit()
    close(data)

    for _ in range(2):
        with pytest.raises(StartError, match="restore the node"):
            opened(tmp_path)


def spoil(data: NodeData) -> None:
    close(data)
    (data.states.current.path / "data.mdb").write_bytes(b"not a database" * 1_000)


def test_a_damaged_state_is_filled_again_from_the_journal(tmp_path: Path) -> None:
    data = opened(tmp_path)
    data.journal.add(b"", 2, 1)
    data.store.apply(2, 1, b"")
    data.store.commit()
    spoil(data)

    again = opened(tmp_path)

    assert again.set_aside
    assert (again.alignment, again.store.applied) == (Alignment.REPLAY, AppliedAt(1, 0))
    assert list(again.journal[:])[1:] == [(b"", 2, 1)]
    close(again)
    last = opened(tmp_path)
    assert not last.set_aside
    close(last)


def test_a_damaged_state_whose_journal_was_compacted_waits_for_a_snapshot(tmp_path: Path) -> None:
    data = opened(tmp_path)
    for index in range(2, 6):
        data.store.apply(index, 1, b"")
    data.store.commit()
    data.states.switch(data.states.current.path, AppliedAt(5, 1))
    close(data)
    data = opened(tmp_path)
    assert data.journal.first_index == 5
    spoil(data)

    again = opened(tmp_path)

    assert (again.alignment, again.journal.last_index) == (Alignment.REBUILD, 5)
    close(again)


def test_an_installed_snapshot_that_the_journal_does_not_know_is_not_set_aside(
    tmp_path: Path,
) -> None:
    data = opened(tmp_path)
    data.states.switch(data.states.current.path, AppliedAt(5, 1))
    spoil(data)

    for _ in range(2):
        with pytest.raises(DamagedStateError):
            opened(tmp_path)


def test_a_member_without_its_journal_is_refused(tmp_path: Path) -> None:
    data = opened(tmp_path)
    data.directory.join("c-1", MEMBERS)
    close(data)
    for segment in (tmp_path / "journal").iterdir():
        segment.unlink()

    with pytest.raises(StartError, match="cluster c-1, but its journal is missing"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["node.lock", "identity", "journal", "snapshots"])
def test_a_directory_that_cannot_be_used_is_refused_with_the_name_of_what_is_in_the_way(
    tmp_path: Path, name: str
) -> None:
    close(opened(tmp_path))
    path = tmp_path / name
    if path.is_dir():
        for entry in path.iterdir():
            entry.unlink()
        path.rmdir()
        path.write_bytes(b"a file where a directory was")
    else:
        path.unlink()
        path.mkdir()

    with pytest.raises(StartError, match=f"{name}.* cannot be used: .*it can read and write"):
        opened(tmp_path)


@pytest.mark.parametrize("term", [TERM_MAX, 2**64 - 1, 1 + TERM_STEP_MAX + 1])
def test_a_term_that_no_cluster_comes_to_is_refused_with_the_way_out(
    tmp_path: Path, term: int
) -> None:
    """A broker of the first version believed such a term of any host that reached its raft port."""
    data = opened(tmp_path)
    data.journal.add(b"command", 2, 1)
    data.journal.set_vote(Vote(term, None))
    data.journal.sync_now()
    close(data)

    with pytest.raises(StartError, match=rf"term {term} is .*tq-admin replace-node n1.*recover"):
        opened(tmp_path)


def test_a_newcomer_to_a_cluster_of_high_terms_starts_again_before_it_has_an_entry(
    tmp_path: Path,
) -> None:
    data = opened(tmp_path)
    members = MemberList(incarnations={"n1": data.directory.incarnation, "n2": "another"})
    data.directory.join("a cluster", members, newcomer=True)
    data.journal.set_vote(Vote(2**40, None))
    data.journal.sync_now()
    close(data)

    close(opened(tmp_path))
