"""A digest of the brokers' logs for each seed: a refactoring must not change any digest."""

from __future__ import annotations

import concurrent.futures
import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from tests.simulation.play.stack import whole_stack_history
from tests.simulation.play.story import Story
from tests.simulation.world.watched_journal import WatchedJournal
from tests.simulation.world.workers import EVERYTHING, Appetite

SEEDS_A_JOB = 5
PICKY = (Appetite(types=("a",)), Appetite(but=("a",)), EVERYTHING)
"""For every third seed: the log then also has the entries for claims of some types."""


def log_digest(seed: int) -> str:
    """Run the whole stack's history of a seed; return the digest of every journal's writes.

    AssertionError if the history breaks a promise: its log says nothing then.
    """
    written: dict[str, Any] = {}
    add, truncate = WatchedJournal.add, WatchedJournal.truncate

    def note(journal: WatchedJournal, what: bytes) -> None:
        # A journal that is not watched yet reads its disk.
        if journal._watcher is not None:
            _, host = journal._watcher
            written.setdefault(host.name, hashlib.sha256()).update(what)

    def noted_add(journal: WatchedJournal, command: bytes, idx: int, term: int) -> None:
        note(journal, b"%d %d %d " % (idx, term, len(command)) + command)
        add(journal, command, idx, term)

    def noted_truncate(journal: WatchedJournal, index: int) -> None:
        note(journal, b"back to %d " % index)
        truncate(journal, index)

    options: dict[str, Any] = {"appetites": PICKY} if seed % 3 == 0 else {}
    with (
        mock.patch.object(WatchedJournal, "add", noted_add),
        mock.patch.object(WatchedJournal, "truncate", noted_truncate),
    ):
        happened = whole_stack_history(Story(seed, whole_stack=True), **options)
    assert happened.error is None, f"seed {seed}: {happened.failure}"
    assert written
    together = hashlib.sha256()
    for name, digest in sorted(written.items()):
        together.update(name.encode() + digest.digest())
    return together.hexdigest()


def log_digests(first: int, seeds: int, jobs: int | None = None) -> Iterator[tuple[int, str]]:
    """Compute the digests of many seeds on every core, in their order."""
    parts = [
        range(at, min(at + SEEDS_A_JOB, first + seeds))
        for at in range(first, first + seeds, SEEDS_A_JOB)
    ]
    context = multiprocessing.get_context("spawn")
    jobs = jobs or os.cpu_count() or 1
    with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
        for part, digests in zip(parts, pool.map(_digests, parts), strict=True):
            yield from zip(part, digests, strict=True)


def _digests(seeds: Sequence[int]) -> list[str]:
    return [log_digest(seed) for seed in seeds]
