"""How the log is run: times, limits, and the rules that correct PySyncObj."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules around PySyncObj that a test can switch off, to show what each is for.

    R7 (no forwarding), R9 (total apply), R10 (alignment at start) and R12 (large entries whole) are
    how the code is built.
    """

    terms_in_answers: bool = True
    """R1: answers of another term, repeated votes and unadmitted nodes do not count."""
    keep_what_matches: bool = True
    """R2: a follower never truncates what matches, and vouches only for what was compared."""
    monotonic_next_index: bool = True
    """R3: a success never moves next indexes back; rejections since then only go down."""
    answer_after_fsync: bool = True
    """R4: votes and acks leave after fsync; a node counts itself and applies up to its own."""
    chunks_commit_nothing: bool = True
    """R5: a piece of a snapshot moves no commit index."""
    verified_snapshots: bool = True
    """R6: a snapshot is checked whole, and never replaces a log that holds it."""
    pre_vote: bool = True
    """R8: a node asks for pre-votes before it stands, and sends a stale leader the higher term."""
    skip_whole_terms: bool = True
    """R11: a conflict steps back over a whole term."""
    confirm_by_rounds: bool = True
    """R13: leadership is confirmed by rounds sent after the question, not by the age of an ack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftSettings:
    """Times in seconds, sizes in bytes."""

    election_timeout_min_s: float = 0.4
    election_timeout_max_s: float = 0.8
    heartbeat_s: float = 0.075
    lost_leader_delay_s: tuple[float, float] = (0.020, 0.120)
    """How long after its connection to the leader closed a follower asks for pre-votes."""
    granted_delay_s: tuple[float, float] = (0.080, 0.160)
    """How far a node that grants a pre-vote pushes its own attempt back."""
    retry_delay_s: tuple[float, float] = (0.040, 0.120)
    """How long after a refused attempt the next one begins."""
    mute_after_s: float = 0.2
    """A connection that brings nothing for so long after a request for a pre-vote is replaced."""
    append_bytes: int = 256 * 1024
    """Entries are sent in appends of about this size; a larger entry goes alone."""
    backlog_bytes: int = MIB
    """If more than this waits on a connection, no more entries are put on it."""
    apply_slice_s: float = 0.010
    apply_slice_entries: int = 256
    compact_every_s: float = 1.0
    """How often the journal is compacted up to the state's durable entry; it retains a margin."""
    kept_journal_bytes: int = 1024 * MIB
    """How far the journal may grow for a follower that is being sent a snapshot. Above this size
    the journal is cut anyway, and the transfer begins again with a newer state."""
    snapshot_chunk_bytes: int = 256 * 1024
    snapshot_retry_s: float = 1.0
    rules: Rules = field(default_factory=Rules)

    @property
    def leader_fallback_s(self) -> float:
        """A leader that no majority has answered for this long steps down."""
        return 2 * self.election_timeout_max_s
