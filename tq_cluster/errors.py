"""The errors between a call and its answer, by what happened to the caller's request."""

from __future__ import annotations


class TqError(Exception):
    """The root of all errors that this package raises on purpose."""


class NotLeaderError(TqError):
    """This node does not lead; nothing was proposed. ``leader_id`` is the leader, if known."""

    def __init__(self, leader_id: str | None = None) -> None:
        super().__init__(f"not the leader (leader: {leader_id or 'unknown'})")
        self.leader_id = leader_id


class NotAppliedError(TqError):
    """The entry was committed on another state than it was decided for: it never has any effect."""


class OutcomeUnknownError(TqError):
    """Leadership ended before the entry was known to be committed: it may still be, or never."""


class OverloadedError(TqError):
    """More calls wait than this node takes; nothing was proposed."""


class FatalError(TqError):
    """The process must stop: going on would risk the log."""


class DiskError(FatalError):
    """The disk failed under journal or state; the message says how."""


class StateDiffersError(FatalError):
    """This node's state differs from a majority's, although the log says it should not."""


class StartError(TqError):
    """The node refuses to start; the message says what is wrong and what would be right."""


class DamagedStateError(StartError):
    """The state on disk is not what was written. The journal can still be sound."""
