"""The journal against a plain list, over random writes, fsyncs, compactions and power cuts."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.raft.modelled_disk import HeldSyncer, ModelledDisk, PowerCutError
from tq_cluster.errors import FatalError
from tq_cluster.raft.journal import Journal, JournalLimits

LIMITS = JournalLimits(segment_bytes=300, retain_bytes=700, retain_entries=12, cache_bytes=150)


@dataclass(frozen=True)
class Moment:
    """What the log was after so many writes."""

    entries: tuple[tuple[bytes, int, int], ...]
    term: int
    voted_for: str | None


def fatal(error: FatalError) -> None:
    raise error


class JournalMachine(RuleBasedStateMachine):
    """Does the same to a journal and to a list, and now and then takes the power away."""

    @initialize()
    def start(self) -> None:
        self.disk = ModelledDisk()
        self.commands = 0
        self.open()
        self.moments = [Moment((), 0, None)]
        self.first_moment = self.journal.pos

    def open(self) -> None:
        self.syncer = HeldSyncer()
        self.journal = Journal(self.disk, self.syncer, on_fatal=fatal, limits=LIMITS)

    @property
    def now(self) -> Moment:
        return self.moments[-1]

    def note(self, moment: Moment) -> None:
        """A write may be several records: a segment's header comes before it."""
        while self.first_moment + len(self.moments) <= self.journal.pos:
            is_last = self.first_moment + len(self.moments) == self.journal.pos
            self.moments.append(moment if is_last else self.now)

    @rule(size=st.integers(0, 120), terms=st.integers(0, 2))
    def add_one(self, size: int, terms: int) -> None:
        self.add(size, terms)

    def add(self, size: int, terms: int) -> None:
        now = self.now
        index = now.entries[-1][1] + 1 if now.entries else random.Random(size).randint(1, 50)
        term = (now.entries[-1][2] if now.entries else 0) + terms
        self.commands += 1
        entry = (b"%d;" % self.commands + bytes(size), index, term)
        self.journal.add(*entry)
        self.note(Moment((*now.entries, entry), now.term, now.voted_for))

    @rule(more=st.integers(0, 3), voted_for=st.sampled_from([None, "n1", "a much longer name"]))
    def vote(self, more: int, voted_for: str | None) -> None:
        now = self.now
        self.journal.setCurrentTerm(now.term + more, voted_for)
        self.note(Moment(now.entries, now.term + more, voted_for))

    @precondition(lambda self: len(self.journal) > 1)
    @rule(draw=st.randoms(use_true_random=False))
    def truncate(self, draw: random.Random) -> None:
        position = draw.randint(1, len(self.journal) - 1)
        gone = len(self.journal) - position
        now = self.now
        self.journal.deleteEntriesFrom(position)
        self.note(Moment(now.entries[:-gone], now.term, now.voted_for))

    @rule(index=st.integers(1, 500), term=st.integers(0, 9))
    def reset(self, index: int, term: int) -> None:
        now = self.now
        self.journal.reset(index, term)
        self.note(Moment(((b"", index, term),), now.term, now.voted_for))

    @rule()
    def clear(self) -> None:
        now = self.now
        self.journal.clear()
        self.note(Moment((), now.term, now.voted_for))

    @rule(behind=st.integers(0, 5))
    def compact(self, behind: int) -> None:
        before = len(self.journal)
        self.journal.compact(self.journal.durable_last_index() - behind)
        kept = len(self.journal)
        assert kept == before or (
            kept > LIMITS.retain_entries or self.journal.size_bytes >= LIMITS.retain_bytes
        ), "compaction leaves what is to be retained"

    @rule()
    def begin_sync(self) -> None:
        self.journal.request_sync()

    @rule()
    def complete_sync(self) -> None:
        self.syncer.finish()

    @rule(entries=st.integers(1, 12), size=st.integers(0, 60))
    def add_and_sync(self, entries: int, size: int) -> None:
        for _ in range(entries):
            self.add(size, 0)
        self.syncer.finish()
        self.journal.request_sync()
        self.syncer.finish()

    @rule()
    def restart(self) -> None:
        self.journal.close()
        self.reopen()
        assert self.held() == self.now

    @rule(steps=st.integers(0, 12), draw=st.randoms(use_true_random=False))
    def power_cut(self, steps: int, draw: random.Random) -> None:
        journal = self.journal
        first_possible = journal.synced_pos - self.first_moment
        self.disk.steps_left = steps
        with contextlib.suppress(PowerCutError):
            self.syncer.finish()
        self.disk = self.disk.power_cut(draw)
        possible = self.moments[max(first_possible, 0) :]
        self.reopen()
        assert any(self.matches(moment) for moment in possible)

    def reopen(self) -> None:
        self.open()
        held = [moment for moment in reversed(self.moments) if self.matches(moment)]
        assert held, f"the log was never {list(self.journal[:])}"
        self.moments = [held[0]]
        self.first_moment = self.journal.pos

    def matches(self, moment: Moment) -> bool:
        """Whether the journal holds the end of that log; its oldest command may be gone."""
        held = list(self.journal[:])
        if (self.journal.getCurrentTerm(), self.journal.getVotedForNodeId()) != (
            moment.term,
            moment.voted_for,
        ):
            return False
        if not held or not moment.entries:
            return len(held) == len(moment.entries)
        tail = moment.entries[-len(held) :]
        return held[1:] == list(tail[1:]) and held[0][1:] == tail[0][1:]

    def held(self) -> Moment:
        assert self.matches(self.now)
        return self.now

    @invariant()
    def the_log_is_the_end_of_the_list(self) -> None:
        assert self.matches(self.now)

    @invariant()
    def what_counts_as_durable_is_in_every_log_that_a_power_cut_may_leave(self) -> None:
        durable = self.journal.durable_last_index()
        promised = {entry for entry in self.now.entries if entry[1] <= durable}
        for moment in self.moments[max(self.journal.synced_pos - self.first_moment, 0) :]:
            assert promised <= set(moment.entries)

    @invariant()
    def memory_holds_little_more_than_its_budget(self) -> None:
        journal = self.journal
        unsynced = sum(
            len(command)
            for command, index, _ in self.now.entries
            if index > journal.durable_last_index()
        )
        assert journal._cached_bytes == sum(map(len, journal._commands.values()))
        if not self.syncer.busy and journal.synced_pos == journal.pos:
            assert journal._cached_bytes <= LIMITS.cache_bytes + unsynced


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
