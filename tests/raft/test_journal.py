"""The log on disk: what was synced survives, and damage is never served."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from tests.raft.modelled_disk import HeldSyncer, ModelledDisk, PowerCutError
from tq_cluster.errors import FatalError, StartError
from tq_cluster.raft.disk import Disk, FileDisk
from tq_cluster.raft.journal import Journal, JournalLimits
from tq_cluster.raft.syncer import InlineSyncer, Syncer

SMALL = JournalLimits(segment_bytes=400, retain_bytes=1_000, retain_entries=20, cache_bytes=100)


def fatal(error: FatalError) -> None:
    raise error


def journal_on(disk: Disk, syncer: Syncer | None = None, limits: JournalLimits = SMALL) -> Journal:
    return Journal(disk, syncer or InlineSyncer(), on_fatal=fatal, limits=limits)


def filled(disk: Disk, count: int, syncer: Syncer | None = None) -> Journal:
    """A log of entries 1 to ``count``, every third in a term of its own, all synced."""
    journal = journal_on(disk, syncer)
    for index in range(1, count + 1):
        journal.add(b"command %d" % index, index, index // 3)
    journal.sync_now()
    return journal


def entries(journal: Journal) -> list[tuple[bytes, int, int]]:
    return list(journal[:])


@pytest.fixture
def disk(tmp_path: Path) -> FileDisk:
    return FileDisk(tmp_path)


def test_a_new_journal_is_an_empty_log_in_term_0(disk: FileDisk) -> None:
    journal = journal_on(disk)

    assert len(journal) == 0
    assert journal.getCurrentTerm() == 0
    assert journal.getVotedForNodeId() is None
    assert journal.durable_last_index() == 0


def test_entries_terms_and_votes_survive_a_restart(disk: FileDisk) -> None:
    journal = journal_on(disk)
    journal.add(b"", 1, 0)
    journal.setCurrentTerm(3, "n2")
    journal.add(b"\x00\xff" * 300, 2, 3)
    journal.setCurrentTerm(4, None)
    journal.close()

    journal = journal_on(disk)

    assert entries(journal) == [(b"", 1, 0), (b"\x00\xff" * 300, 2, 3)]
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (4, None)
    assert journal.durable_last_index() == 2


def test_a_truncated_entry_stays_away_after_a_restart(disk: FileDisk) -> None:
    journal = filled(disk, 9)
    journal.deleteEntriesFrom(4)
    journal.add(b"another", 5, 7)
    journal.close()

    again = journal_on(disk)

    assert entries(again)[3:] == [(b"command 4", 4, 1), (b"another", 5, 7)]


def test_positions_and_slices_are_read_as_from_a_list(disk: FileDisk) -> None:
    journal = filled(disk, 12)
    plain = [(b"command %d" % index, index, index // 3) for index in range(1, 13)]

    assert [journal[at] for at in (0, 5, -1)] == [(b"", 1, 0), plain[5], plain[-1]]
    for part in (slice(3, None), slice(2, 5), slice(-2, None), slice(5, 2), slice(4, 99)):
        assert list(journal[part]) == plain[part]
        assert len(journal[part]) == len(plain[part])
    assert list(journal[2:][1:3]) == plain[2:][1:3]
    assert journal[3:][-1] == plain[-1]
    with pytest.raises(IndexError):
        journal[12]


def test_the_log_is_without_gaps(disk: FileDisk) -> None:
    journal = filled(disk, 3)

    for index in (3, 5):
        with pytest.raises(FatalError, match="cannot follow entry 3"):
            journal.add(b"", index, 1)


def test_nothing_counts_as_durable_before_its_fsync() -> None:
    syncer = HeldSyncer()
    journal = filled(ModelledDisk(), 3, syncer)
    journal.add(b"4", 4, 2)
    journal.request_sync()
    journal.add(b"5", 5, 2)
    assert (journal.durable_last_index(), journal.pos - journal.synced_pos) == (3, 2)

    syncer.finish()
    assert (journal.durable_last_index(), journal.pos - journal.synced_pos) == (4, 1)

    journal.request_sync()
    syncer.finish()
    assert (journal.durable_last_index(), journal.pos - journal.synced_pos) == (5, 0)


def test_an_fsync_does_not_count_entries_truncated_while_it_ran() -> None:
    syncer = HeldSyncer()
    journal = filled(ModelledDisk(), 3, syncer)
    journal.add(b"old 4", 4, 2)
    journal.add(b"old 5", 5, 2)
    journal.request_sync()
    journal.deleteEntriesFrom(3)
    journal.add(b"new 4", 4, 3)
    journal.add(b"new 5", 5, 3)

    syncer.finish()

    assert journal.durable_last_index() == 3
    journal.request_sync()
    syncer.finish()
    assert journal.durable_last_index() == 5


def test_an_entry_in_a_truncated_ones_place_is_not_durable_before_its_own_fsync() -> None:
    journal = filled(ModelledDisk(), 5)

    journal.deleteEntriesFrom(3)
    journal.add(b"new 4", 4, 3)

    assert journal.durable_last_index() == 3


def test_closing_waits_for_the_fsync_under_way() -> None:
    disk, syncer = ModelledDisk(), HeldSyncer()
    journal = filled(disk, 3, syncer)
    journal.add(b"4", 4, 2)
    journal.request_sync()
    journal.add(b"5", 5, 2)

    journal.close()

    assert not syncer.busy
    assert journal_on(disk).last_index == 5


def test_listeners_hear_of_each_fsync() -> None:
    syncer = HeldSyncer()
    journal = filled(ModelledDisk(), 1, syncer)
    heard: list[int] = []
    journal.on_synced(lambda: heard.append(journal.durable_last_index()))

    journal.add(b"", 2, 1)
    journal.request_sync()
    assert heard == []
    syncer.finish()

    assert heard == [2]


def test_after_a_failed_fsync_nothing_counts_ever_again() -> None:
    disk, syncer, told = ModelledDisk(), HeldSyncer(), list[FatalError]()
    journal = Journal(disk, syncer, on_fatal=told.append)
    journal.add(b"", 1, 0)
    journal.request_sync()
    disk.fail_syncs = True
    syncer.finish()
    disk.fail_syncs = False

    assert "Input/output error" in str(told[0])
    assert (journal.durable_last_index(), journal.synced_pos) == (0, 1)
    journal.request_sync()
    assert not syncer.busy
    for use in (journal.sync_now, lambda: journal.add(b"", 2, 0)):
        with pytest.raises(FatalError, match="disk has failed"):
            use()
    journal.close()
    assert journal.durable_last_index() == 0


def test_compaction_drops_old_segments_and_keeps_what_is_asked_for(disk: FileDisk) -> None:
    journal = filled(disk, 100)
    before = journal.size_bytes

    journal.compact(upto=95)

    assert journal.size_bytes < before / 2
    assert 20 <= len(journal) <= 40
    assert sum(map(disk.size, disk.names())) == journal.size_bytes
    kept = entries(journal)
    again = journal_on(disk)
    assert entries(again) == kept
    assert again[0][1:] == (journal.first_index, journal.first_index // 3)


def test_compaction_never_goes_beyond_what_the_state_holds(disk: FileDisk) -> None:
    journal = filled(disk, 100)

    journal.deleteEntriesTo(30)

    assert journal.first_index <= 31
    journal.compact(upto=0)
    assert journal.term_at(31) == 10


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("cut", range(50, 60))
def test_a_segment_whose_past_was_truncated_does_not_become_the_first(
    restarted: bool, cut: int
) -> None:
    disk = ModelledDisk()
    journal = filled(disk, 60)
    journal.truncate(cut)
    for index in range(cut, 90):
        journal.add(b"new", index, 50)
    journal.sync_now()
    kept = entries(journal)
    if restarted:
        journal = journal_on(disk)

    for upto in range(1, 90):
        journal.compact(upto)
        again = journal_on(disk)
        assert entries(again) == entries(journal)
        assert entries(again)[1:] == kept[-len(again) + 1 :]


@pytest.mark.parametrize("steps", range(20))
@pytest.mark.parametrize("cut", [50, 55])
def test_a_compaction_that_was_cut_off_leaves_a_log_that_opens(cut: int, steps: int) -> None:
    """Though it may begin for a while with a segment whose past was truncated."""
    disk = ModelledDisk()
    journal = filled(disk, 60)
    journal.truncate(cut)
    for index in range(cut, 120):
        journal.add(b"new", index, 50)
    journal.sync_now()
    kept = entries(journal)
    disk.steps_left = steps

    with contextlib.suppress(PowerCutError):
        journal.compact(upto=118)
        journal.sync_now()
    again = journal_on(disk.power_cut(random.Random(steps)))

    assert again.last_index == 119
    assert entries(again)[1:] == kept[-len(again) + 1 :]


def test_what_was_compacted_cannot_be_truncated(disk: FileDisk) -> None:
    journal = filled(disk, 100)
    journal.compact(upto=95)

    with pytest.raises(FatalError, match="compacted"):
        journal.truncate(journal.first_index)


def test_a_reset_log_begins_where_the_snapshot_ends(disk: FileDisk) -> None:
    journal = filled(disk, 50)
    journal.setCurrentTerm(40, "n3")

    journal.reset(1_000, 39)
    assert journal.durable_last_index() == 1_000
    journal.add(b"next", 1_001, 40)
    journal.close()

    again = journal_on(disk)
    assert entries(again) == [(b"", 1_000, 39), (b"next", 1_001, 40)]
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (40, "n3")
    assert len(disk.names()) == 1


def test_a_cleared_log_begins_with_whatever_is_added(disk: FileDisk) -> None:
    journal = filled(disk, 10)

    journal.clear()
    assert len(journal) == 0
    journal.add(b"seven", 7, 2)
    journal.close()

    assert entries(journal_on(disk))[0][1:] == (7, 2)
    assert len(journal_on(disk)) == 1


def test_old_commands_leave_memory_and_are_read_back() -> None:
    disk = ModelledDisk()
    journal = journal_on(disk)
    for index in range(1, 200):
        journal.add(b"x" * 30 + b"%d" % index, index, 1)
        journal.request_sync()

    assert sum(map(len, journal._commands.values())) <= SMALL.cache_bytes
    assert journal[100] == (b"x" * 30 + b"101", 101, 1)


def test_a_command_stays_in_memory_until_it_can_be_read_back() -> None:
    syncer = HeldSyncer()
    journal = filled(ModelledDisk(), 1, syncer)
    for index in range(2, 10):
        journal.add(b"large" * 100, index, 1)
        journal.request_sync()
    syncer.finish()
    assert journal.durable_last_index() == 2

    assert all(command == b"large" * 100 for command, _, _ in journal[1:])


def test_the_newest_command_stays_in_memory_however_large_it_is() -> None:
    disk = ModelledDisk()
    journal = filled(disk, 3)
    journal.add(bytes(10 * SMALL.cache_bytes), 4, 3)
    journal.sync_now()

    assert list(journal._commands) == [4]
    journal.add(b"next", 5, 3)
    journal.sync_now()
    assert list(journal._commands) == [5]
    assert journal[3] == (bytes(10 * SMALL.cache_bytes), 4, 3)


def test_the_commit_index_is_not_taken_from_the_disk(disk: FileDisk) -> None:
    journal = filled(disk, 10)
    journal.setRaftCommitIndex(10)

    assert journal.getRaftCommitIndex() == 1


def test_a_damaged_entry_is_not_read_back(disk: FileDisk, tmp_path: Path) -> None:
    journal = filled(disk, 100)
    first = tmp_path / disk.names()[0]
    damaged = first.read_bytes().replace(b"command 5", b"command 6")
    first.write_bytes(damaged)

    with pytest.raises(FatalError, match=r"entry 5 .*cannot be read back"):
        journal.entry(5)


@pytest.mark.parametrize("name", ["00000000000000000003.log", "00000000000000000001.log"])
def test_a_missing_segment_is_refused(disk: FileDisk, name: str) -> None:
    filled(disk, 60).compact(0)
    if name.endswith("1.log"):
        disk.delete("00000000000000000002.log")
    else:
        disk.delete(name)

    with pytest.raises(StartError, match="lacks"):
        journal_on(disk)
