"""Invariants that every history must satisfy, checked as it happens."""

from __future__ import annotations

import enum
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

from tests.simulation.world.state import Applied
from tq_cluster.raft.journal_door import LogJournal


class Invariant(enum.StrEnum):
    """The invariants that the checker watches."""

    ELECTION_SAFETY = "election safety"
    LOG_MATCHING = "log matching"
    LEADER_COMPLETENESS = "leader completeness"
    STATE_MACHINE_SAFETY = "state machine safety"
    DURABILITY = "durability"
    """Every entry that is applied anywhere or acknowledged is on a majority's disks and stays
    there."""
    LINEARIZABILITY = "linearizability"
    """A confirmed position holds everything that was acknowledged before the request for it."""
    EQUAL_STATES = "equal states"


class Violation(AssertionError):  # noqa: N818 - what a checker finds is not an error of its own
    """A broken promise; ``invariant`` names it if the checker watches it."""

    def __init__(self, message: str, invariant: Invariant | None = None) -> None:
        super().__init__(message)
        self.invariant = invariant


class Observed(Protocol):
    """A host as the checker sees it."""

    name: str

    @property
    def journal(self) -> LogJournal:
        """The journal that was last open."""

    @property
    def state_index(self) -> int:
        """The last applied entry that a power cut now would leave."""

    @property
    def lost_upto(self) -> int:
        """Entries acknowledged up to this index may have been on a lost disk of this host."""


class Checker:
    """Raft's invariants over all hosts, and the promises made to callers."""

    def __init__(self, hosts: Mapping[str, Observed]) -> None:
        self._hosts = hosts
        self._leaders: dict[int, str] = {}
        self._written: dict[tuple[int, int], tuple[int, int | None]] = {}
        """(index, term): (CRC of the entry, term of the entry before it)."""
        self._hashes: dict[int, str] = {}
        self._chosen: dict[int, tuple[int, bytes]] = {}
        self._chosen_by_term: dict[int, int] = {}
        """The term in which each entry was first applied: it was committed in that term or
        before."""
        self.acked: dict[int, tuple[int, bytes]] = {}
        """index: (term, entry) of every acknowledged entry."""
        self._unsafe: dict[int, tuple[int, bytes]] = {}
        """The acknowledged entries that may not be in the states of a majority yet."""
        self.losses: Counter[str] = Counter()
        """For each host, how often its log became shorter or was opened."""

    # ------------------------------------------------------------------ at every write

    def appended(self, host: Observed, index: int, term: int, entry: bytes) -> None:
        """Check log matching at each step: index and term name one entry and all before it."""
        written = (zlib.crc32(entry), host.journal.term_at(index - 1))
        known = self._written.setdefault((index, term), written)
        if known != written:
            raise Violation(
                f"{host.name} wrote {entry[:40]!r} as entry {index} of term {term}, after one of"
                f" term {written[1]}; elsewhere it is another, or follows one of term {known[1]}",
                Invariant.LOG_MATCHING,
            )

    def opened(self, host: Observed) -> None:
        """Check that a disk that is back holds what was written to it."""
        journal = host.journal
        for index in range(journal.first_index + 1, journal.last_index + 1):
            entry, _, term = journal.entry(index)
            self.appended(host, index, term, entry)
        self.lost(host)

    def lost(self, host: Observed) -> None:
        """Check that acknowledged entries are still durable after a log became shorter."""
        holders = sorted(other.state_index for other in self._hosts.values())
        # A majority's states keep their entries: only later entries can be lost.
        safe = holders[(len(holders) - 1) // 2]
        self._unsafe = {index: told for index, told in self._unsafe.items() if index > safe}
        for index, (term, entry) in self._unsafe.items():
            self._check_durable(index, term, entry, "acknowledged")
        self.losses[host.name] += 1

    # ------------------------------------------------------------------ as it happens

    def leads(self, host: Observed, term: int) -> None:
        """Check election safety and leader completeness."""
        earlier = self._leaders.setdefault(term, host.name)
        if earlier != host.name:
            raise Violation(
                f"two leaders in term {term}: {earlier} and {host.name}", Invariant.ELECTION_SAFETY
            )
        journal = host.journal
        for index, (chosen_term, entry) in self._chosen.items():
            # A leader of an earlier term, elected by votes that were long on their way, may lack
            # it.
            if self._chosen_by_term[index] >= term or index < journal.first_index:
                continue
            if journal.term_at(index) != chosen_term:
                raise Violation(
                    f"{host.name} leads term {term} without entry {index} of term {chosen_term} "
                    f"({entry!r}), which was applied",
                    Invariant.LEADER_COMPLETENESS,
                )

    def applied(self, host: Observed, applied: Applied) -> None:
        """Check state machine safety, and that a newly applied entry is on a majority's disks."""
        index, term, entry = applied
        first = index not in self._chosen
        chosen = self._chosen.setdefault(index, (term, entry))
        self._chosen_by_term.setdefault(index, host.journal.getCurrentTerm())
        if chosen != (term, entry):
            raise Violation(
                f"{host.name} applied {entry!r} of term {term} as entry {index}, "
                f"where {chosen[1]!r} of term {chosen[0]} was applied before",
                Invariant.STATE_MACHINE_SAFETY,
            )
        if first:
            self._check_durable(index, term, entry, "applied")

    def acknowledged(self, index: int, term: int, entry: bytes) -> None:
        """Check that an acknowledged entry is on a majority's disks."""
        self.acked[index] = self._unsafe[index] = (term, entry)
        self._check_durable(index, term, entry, "acknowledged")

    def confirmed(self, asked_after: int, index: int, name: str) -> None:
        """Check that a confirmed position holds all that was acknowledged before the request."""
        if index < asked_after:
            raise Violation(
                f"{name} was confirmed as leader at entry {index} though entry {asked_after} "
                f"had been acknowledged before it asked: a stale read",
                Invariant.LINEARIZABILITY,
            )

    def hashed(self, host: Observed, index: int, state_hash: str) -> None:
        """Check that states are equal at equal entries."""
        known = self._hashes.setdefault(index, state_hash)
        if known != state_hash:
            raise Violation(
                f"{host.name} has another state than others had after entry {index}",
                Invariant.EQUAL_STATES,
            )

    # ------------------------------------------------------------------ of everything

    def check_logs(self) -> None:
        """Check log matching, and that acknowledged entries are still durable on a majority."""
        hosts = list(self._hosts.values())
        for position, one in enumerate(hosts):
            for other in hosts[position + 1 :]:
                self._check_matching(one, other)
        for index, (term, entry) in self.acked.items():
            self._check_durable(index, term, entry, "acknowledged")

    def _check_matching(self, one: Observed, other: Observed) -> None:
        ours, theirs = one.journal, other.journal
        agreed = False
        for index in range(
            min(ours.last_index, theirs.last_index),
            max(ours.first_index, theirs.first_index),
            -1,
        ):
            same = ours.term_at(index) == theirs.term_at(index)
            if agreed and not same:
                raise Violation(
                    f"{one.name} and {other.name} agree above entry {index} and differ at it",
                    Invariant.LOG_MATCHING,
                )
            if same and not agreed and ours.entry(index) != theirs.entry(index):
                raise Violation(
                    f"{one.name} and {other.name} hold different entries {index}",
                    Invariant.LOG_MATCHING,
                )
            agreed = agreed or same

    def _check_durable(self, index: int, term: int, entry: bytes, told: str) -> None:
        holders = [
            host.name
            for host in self._hosts.values()
            if index <= host.lost_upto or _holds(host, index, term)
        ]
        if len(holders) <= len(self._hosts) // 2:
            raise Violation(
                f"entry {index} of term {term} ({entry[:40]!r}) was {told}, but is durable "
                f"only on {', '.join(holders) or 'no node'}",
                Invariant.DURABILITY,
            )

    def holds_all(self, host: Observed) -> bool:
        """Whether everything that was acknowledged so far is on the host's disk."""
        return all(_holds(host, index, term) for index, (term, _) in self.acked.items())

    # ------------------------------------------------------------------ in the end

    def check_end(self, machines: Iterable[tuple[str, list[Applied]]]) -> None:
        """Check that all nodes have applied the same entries, and all acknowledged ones."""
        states = list(machines)
        for name, entries in states:
            if entries != states[0][1]:
                raise Violation(
                    f"{name} and {states[0][0]} applied different histories", Invariant.EQUAL_STATES
                )
            by_index = {index: (term, entry) for index, term, entry in entries}
            for index, acked in self.acked.items():
                if by_index.get(index) != acked:
                    raise Violation(
                        f"acknowledged entry {index} {acked!r} is lost: {name} has "
                        f"{by_index.get(index)!r}",
                        Invariant.DURABILITY,
                    )


def _holds(host: Observed, index: int, term: int) -> bool:
    """Whether the entry would be there after a power cut."""
    journal = host.journal
    if index <= journal.durable_last_index() and journal.term_at(index) == term:
        return True
    # Compacted: the durable state holds the entry, which is the one that all have applied.
    return host.state_index >= index
