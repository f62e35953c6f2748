"""What the journal makes of files that are cut short, torn or rotten."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.raft.modelled_disk import HeldSyncer, ModelledDisk, PowerCutError
from tq_cluster.errors import FatalError, StartError
from tq_cluster.raft.disk import FileDisk
from tq_cluster.raft.journal import DEFAULT_LIMITS, Journal, JournalLimits
from tq_cluster.raft.records import FIRST_WRITE_BYTES, PREAMBLE
from tq_cluster.raft.syncer import InlineSyncer

SMALL = JournalLimits(segment_bytes=400, retain_bytes=1_000, retain_entries=20)
FIRST = "00000000000000000001.log"

Entry = tuple[bytes, int, int]


def fatal(error: FatalError) -> None:
    raise error


def journal_on(disk: ModelledDisk | FileDisk, limits: JournalLimits = SMALL) -> Journal:
    return Journal(disk, InlineSyncer(), on_fatal=fatal, limits=limits)


def batches(
    disk: ModelledDisk, count: int, *, of: int = 1, size: int = 20, term: int = 1
) -> list[Entry]:
    """Add ``count`` batches of ``of`` entries, each batch synced; return all entries."""
    journal = journal_on(disk)
    for _ in range(count):
        for _ in range(of):
            index = journal.last_index + 1
            journal.add(random.Random(index).randbytes(size), index, term)
        journal.sync_now()
    return list(journal[:])


def file_of(disk: ModelledDisk, name: str = FIRST) -> bytearray:
    return disk.files[name].data


@pytest.mark.parametrize("kept", range(1, 50))
def test_a_last_record_cut_at_any_byte_is_dropped_and_the_rest_served(
    kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    disk = ModelledDisk()
    entries = batches(disk, 3)
    record_bytes = (len(file_of(disk)) - FIRST_WRITE_BYTES) // 3
    assert record_bytes == 49
    cut = record_bytes - kept

    del file_of(disk)[-cut or len(file_of(disk)) :]
    with caplog.at_level(logging.WARNING):
        journal = journal_on(disk)

    if cut:
        assert [record.message for record in caplog.records] == [
            "journal: an interrupted write was cut off"
        ]
    survivors = entries[:2] if cut else entries
    assert list(journal[:])[1:] == survivors[1:]
    assert journal.durable_last_index() == len(survivors)
    journal.add(b"next", len(survivors) + 1, 2)
    journal.close()
    assert journal_on(disk)[-1] == (b"next", len(survivors) + 1, 2)


@pytest.mark.parametrize("garbage", [b"\0" * 700, b"garbage" * 100, b"\xf7tq\x1e", PREAMBLE])
def test_garbage_after_the_last_record_is_dropped(garbage: bytes) -> None:
    disk = ModelledDisk()
    entries = batches(disk, 3)
    file_of(disk).extend(garbage)

    journal = journal_on(disk)

    assert list(journal[:])[1:] == entries[1:]
    assert file_of(disk).endswith(entries[-1][0])


@pytest.mark.parametrize("size", range(FIRST_WRITE_BYTES))
def test_a_journal_that_was_never_finished_is_begun_again(size: int) -> None:
    disk = ModelledDisk()
    journal_on(disk)
    del file_of(disk)[size:]

    journal = journal_on(disk)

    journal.add(b"", 1, 0)
    journal.close()
    assert len(journal_on(disk)) == 1


def test_a_flipped_bit_anywhere_before_the_last_batch_is_refused_and_nothing_touched() -> None:
    disk = ModelledDisk()
    batches(disk, 4)
    last_record = len(file_of(disk)) - 49

    for at in range(last_record):
        file_of(disk)[at] ^= 0x10
        damaged = bytes(file_of(disk))
        with pytest.raises(StartError, match=r"00001\.log"):
            journal_on(disk)
        assert file_of(disk) == damaged
        file_of(disk)[at] ^= 0x10

    assert len(journal_on(disk)) == 4


def test_a_flipped_bit_in_the_midst_of_the_last_batch_is_refused() -> None:
    disk = ModelledDisk()
    batches(disk, 1, of=3, size=100)
    file_of(disk)[-150] ^= 1
    assert len(disk.names()) == 1

    with pytest.raises(StartError, match="is damaged"):
        journal_on(disk)


@pytest.mark.parametrize("at", [0, 20, 70, 200, -1])
def test_any_damage_in_an_older_segment_is_refused(at: int) -> None:
    disk = ModelledDisk()
    batches(disk, 30)
    assert len(disk.names()) > 2
    file_of(disk)[at] ^= 1

    with pytest.raises(StartError, match=FIRST):
        journal_on(disk)


def test_an_older_segment_that_was_cut_short_is_refused() -> None:
    disk = ModelledDisk()
    batches(disk, 30)
    del file_of(disk)[-10:]

    with pytest.raises(StartError, match=FIRST):
        journal_on(disk)


def test_the_header_of_the_only_segment_is_never_taken_for_an_unfinished_one() -> None:
    disk = ModelledDisk()
    batches(disk, 3)
    journal = journal_on(disk)
    journal.setCurrentTerm(7, "n1")
    journal.reset(900, 6)
    [name] = disk.names()
    file_of(disk, name)[30] ^= 1

    with pytest.raises(StartError, match="is damaged"):
        journal_on(disk)


def test_sectors_that_were_never_written_are_a_torn_write() -> None:
    disk = ModelledDisk()
    entries = batches(disk, 3)
    journal = journal_on(disk, DEFAULT_LIMITS)
    for index in range(4, 8):
        journal.add(random.Random(index).randbytes(1_100), index, 1)
    journal.sync_now()
    sector = (file_of(disk).find(journal[4][0]) // 512 + 1) * 512
    file_of(disk)[sector : sector + 512] = bytes(512)

    survivor = journal_on(disk)

    assert list(survivor[:])[1:] == [*entries[1:], journal[3]]


def test_a_new_segments_name_is_on_disk_with_it() -> None:
    for seed in range(10):
        disk = ModelledDisk()
        batches(disk, 30)
        assert len(journal_on(disk.power_cut(random.Random(seed)))) == 30


def test_what_a_crash_left_unsynced_is_synced_before_it_counts() -> None:
    disk = ModelledDisk()
    batches(disk, 3)
    disk.files[FIRST].synced = b""

    assert journal_on(disk).durable_last_index() == 3

    assert len(journal_on(disk.power_cut(random.Random(1)))) == 3


def test_zeros_in_a_payload_do_not_make_rot_a_torn_write() -> None:
    disk = ModelledDisk()
    journal = journal_on(disk, DEFAULT_LIMITS)
    for index in (1, 2):
        journal.add(b"head" + bytes(2_000), index, 1)
        journal.sync_now()
    file_of(disk)[file_of(disk).find(b"head")] ^= 1

    with pytest.raises(StartError, match="is damaged"):
        journal_on(disk)


def test_a_record_inside_a_payload_is_no_record() -> None:
    disk = ModelledDisk()
    batches(disk, 3)
    inner = bytes(file_of(disk))
    journal = journal_on(disk)
    journal.add(inner * 2, 4, 1)
    journal.close()
    name = disk.names()[-1]

    del file_of(disk, name)[-30:]

    assert len(journal_on(disk)) == 3


def test_a_journal_of_a_newer_format_is_refused() -> None:
    disk = ModelledDisk()
    batches(disk, 3)
    file_of(disk)[len(PREAMBLE) - 1] = 2

    with pytest.raises(StartError, match=r"format 2.*newer"):
        journal_on(disk)


def test_a_segment_in_anothers_place_is_refused() -> None:
    disk = ModelledDisk()
    batches(disk, 30)
    second = disk.names()[1]
    disk.files[second] = disk.files[FIRST]

    with pytest.raises(StartError, match=second):
        journal_on(disk)


def test_a_segment_of_another_history_is_refused() -> None:
    disk, other = ModelledDisk(), ModelledDisk()
    batches(disk, 30)
    batches(other, 30, term=2)
    disk.files[disk.names()[2]] = other.files[disk.names()[2]]

    with pytest.raises(StartError, match="contradicts itself"):
        journal_on(disk)


def test_nothing_is_deleted_before_what_replaces_it_is_on_disk() -> None:
    """Power is cut at every step of a reset and of a compaction."""
    changes: list[Callable[[Journal], None]] = [
        lambda journal: journal.reset(900, 9),
        lambda journal: journal.compact(60),
    ]
    for change in changes:
        for steps in range(20):
            disk = ModelledDisk()
            batches(disk, 60)
            syncer = HeldSyncer()
            journal = Journal(disk, syncer, on_fatal=fatal, limits=SMALL)
            journal.setCurrentTerm(9, "n2")
            journal.sync_now()
            before = list(journal[:])
            disk.steps_left = steps
            try:
                change(journal)
                syncer.finish()
            except PowerCutError:
                pass
            disk = disk.power_cut(random.Random(steps))
            after_cut = journal_on(disk)

            assert after_cut.getCurrentTerm() == 9
            kept = list(after_cut[:])
            assert kept == [(b"", 900, 9)] or kept[1:] == before[len(before) - len(kept) + 1 :]
            assert after_cut.durable_last_index() in (60, 900)
            assert sum(map(disk.size, disk.names())) == after_cut.size_bytes


WRITER = """
import sys
from pathlib import Path
from tq_cluster.raft.disk import FileDisk
from tq_cluster.raft.journal import DEFAULT_LIMITS, Journal, JournalLimits
from tq_cluster.raft.syncer import InlineSyncer

journal = Journal(
    FileDisk(Path(sys.argv[1])),
    InlineSyncer(),
    on_fatal=sys.exit,
    limits=JournalLimits(segment_bytes=4_000, retain_bytes=20_000, retain_entries=100),
)
journal.on_synced(lambda: print(journal.durable_last_index(), flush=True))
while True:
    index = journal.last_index + 1
    journal.setCurrentTerm(index // 10, "n1")
    for index in range(index, index + 3):
        journal.add(b"%d" % index * (index % 50), index, index // 10)
    journal.request_sync()
    journal.compact(journal.last_index - 5)
"""


@pytest.mark.parametrize("lines", [1, 30, 200])
def test_what_was_reported_durable_is_there_after_a_sigkill(tmp_path: Path, lines: int) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            reported = [int(process.stdout.readline()) for _ in range(lines)]
            os.kill(process.pid, signal.SIGKILL)
            reported += [int(line) for line in process.stdout if line.endswith("\n")]

        disk = FileDisk(tmp_path)
        journal = journal_on(disk)
        assert journal.last_index >= max(reported)
        for command, index, term in journal[1:]:
            assert (command, term) == (b"%d" % index * (index % 50), index // 10)
        disk.close()
