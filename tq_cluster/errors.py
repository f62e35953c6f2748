"""What can go wrong between a call and its answer, by what happened to the caller's request."""

from __future__ import annotations


class TqError(Exception):
    """The root of what this package raises on purpose."""


class NotLeaderError(TqError):
    """This node does not lead; nothing was proposed. ``leader_id`` is who does, where known."""

    def __init__(self, leader_id: str | None = None) -> None:
        super().__init__(f"not the leader (leader: {leader_id or 'unknown'})")
        self.leader_id = leader_id


class NotAppliedError(TqError):
    """The entry was committed where it was not decided for: it changed nothing and never will."""


class OutcomeUnknownError(TqError):
    """Leadership ended before the entry was known to be committed: it may yet be, or never."""


class OverloadedError(TqError):
    """More calls wait than this node takes; nothing was proposed."""


class FatalError(TqError):
    """The process must stop: going on would risk the log."""


class DiskError(FatalError):
    """The disk failed under journal or state; the message says how."""


class StateDiffersError(FatalError):
    """This node's state is not what a majority's is, although the log says that it should be."""


class StartError(TqError):
    """The node refuses to start; the message says what is wrong and what would be right."""


class DamagedStateError(StartError):
    """The state on disk is not what was written. The journal can still be sound."""
