# ruff: noqa: SLF001 - this is the one place that knows PySyncObj's private names
"""The parts of PySyncObj 0.3.17 that are used, behind names of our own.

The only module that imports pysyncobj and the only one that knows its private names. What is kept
of it: elections, the vote check, the append check, the commit rule, the check for a majority,
leadership transfer. What is replaced: applying entries, sending them, and everything around
commands and dumps.
"""

from __future__ import annotations

import enum
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pysyncobj import syncobj
from pysyncobj.config import SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tq_cluster.errors import StartError
from tq_cluster.raft.journal_door import LogJournal
from tq_cluster.raft.settings import RaftSettings

SYNCOBJ_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

NO_OP = b"\x01"
"""The command of an election's entry. No serialized Entry begins with this byte."""

_NEVER_REACHED = 1 << 62
"""A batch size: PySyncObj's own cutting of large entries is never wanted."""


class CoreState(enum.IntEnum):
    """PySyncObj's states."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2


class CoreHooks(Protocol):
    """The core's callbacks."""

    def on_core_send(self, peer_id: str, message: dict[str, Any]) -> None:
        """Send the core's message: a vote request, a vote, an append's answer, a TimeoutNow."""

    def on_core_replicate(self) -> None:
        """Send every peer the entries it lacks, or a heartbeat if it lacks none."""

    def on_core_apply(self) -> None:
        """Apply what is committed."""


def check_syncobj() -> None:
    """Raise StartError unless syncobj.py is the one that the rules were written for."""
    path = Path(str(syncobj.__file__))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SYNCOBJ_SHA256:
        raise StartError(
            f"{path} is not the pysyncobj 0.3.17 that this node corrects (sha256 {digest}, "
            f"not {SYNCOBJ_SHA256}): reinstall pysyncobj==0.3.17"
        )


class _Member(Node):  # type: ignore[misc]  # pysyncobj publishes no types
    """A node whose hash is its rank: sets of nodes have one order in every process."""

    def __init__(self, node_id: str, rank: int) -> None:
        super().__init__(node_id)
        self.rank = rank

    def __hash__(self) -> int:
        return int(self.rank)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Member) and self.rank == other.rank


class _Outlet(Transport):  # type: ignore[misc]  # pysyncobj publishes no types
    """Takes what the core sends."""

    ready = True

    def __init__(self, send: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__(None, None, ())
        self._send = send

    def send(self, node: _Member, message: dict[str, Any]) -> bool:
        self._send(node.id, message)
        return True

    def destroy(self) -> None:
        """Do nothing: there is nothing to release."""


class _NoPoller:
    """The event loop polls; the core has no sockets."""

    def poll(self, _timeout_s: float) -> None:
        return None


class _CorrectedSyncObj(syncobj.SyncObj):  # type: ignore[misc]  # pysyncobj publishes no types
    """PySyncObj with its own ways of applying and sending replaced."""

    def __init__(
        self,
        node: _Member,
        others: Sequence[_Member],
        conf: SyncObjConf,
        hooks: CoreHooks,
        draw: random.Random,
    ) -> None:
        self._hooks = hooks
        self._draw = draw
        super().__init__(node, others, conf=conf, transport=_Outlet(hooks.on_core_send))
        self._poller = _NoPoller()

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802 - overrides PySyncObj's own
        self._hooks.on_core_apply()
        # Never "send at once": the commit index rides on the next entry.
        return False

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:  # noqa: N802 - as above
        raise AssertionError(
            f"{len(command)} bytes reached PySyncObj's own interpreter of commands"
        )

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802 - as above
        self._SyncObj__newAppendEntriesTime = (
            syncobj.monotonicTime() + self.conf.appendEntriesPeriod
        )
        self._hooks.on_core_replicate()

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802 - as above
        """The journal is cut by the replica, by bytes and never above the state's durable entry."""

    def _SyncObj__generateRaftTimeout(self) -> float:  # noqa: N802 - as above
        return self._draw.uniform(self.conf.raftMinTimeout, self.conf.raftMaxTimeout)

    def _checkCommandsToApply(self) -> None:  # noqa: N802 - as above
        """Entries are appended by ``propose``; PySyncObj's queue outlives a leadership."""

    def _applyCommand(self, command: bytes, *_: object) -> None:  # noqa: N802 - as above
        raise AssertionError(f"{len(command)} bytes were handed to PySyncObj's queue of commands")


class PySyncObjCore:
    """One node's Raft core.

    The clock is global to the process: all cores use ``monotonic_s`` of the core constructed last.
    """

    def __init__(
        self,
        *,
        node_id: str,
        member_ids: Sequence[str],
        journal: LogJournal,
        hooks: CoreHooks,
        settings: RaftSettings,
        monotonic_s: Callable[[], float],
        draw: random.Random,
    ) -> None:
        check_syncobj()
        self._members = {name: _Member(name, rank) for rank, name in enumerate(sorted(member_ids))}
        self._peer_ids = tuple(name for name in self._members if name != node_id)
        syncobj.monotonicTime = monotonic_s
        # Otherwise each core would open a pipe that is never read.
        syncobj.PIPE_NOTIFIER_ENABLED = False
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=False,
            appendEntriesBatchSizeBytes=_NEVER_REACHED,
            appendEntriesPeriod=settings.heartbeat_s,
            commandsWaitLeader=False,
            commandsQueueSize=1,
            dynamicMembershipChange=False,
            leaderFallbackTimeout=settings.leader_fallback_s,
            raftMinTimeout=settings.election_timeout_min_s,
            raftMaxTimeout=settings.election_timeout_max_s,
            useFork=False,
        )
        others = [self._members[name] for name in self._peer_ids]
        original = syncobj.createJournal
        syncobj.createJournal = lambda _file: journal
        try:
            self._raft = _CorrectedSyncObj(self._members[node_id], others, conf, hooks, draw)
        finally:
            syncobj.createJournal = original

    # ------------------------------------------------------------------ what it knows

    @property
    def peer_ids(self) -> tuple[str, ...]:
        """The other members, in order."""
        return self._peer_ids

    @property
    def majority(self) -> int:
        """How many members, this one included, decide."""
        return len(self._members) // 2 + 1

    @property
    def state(self) -> int:
        """A value of CoreState."""
        return int(self._raft._SyncObj__raftState)

    @property
    def leads(self) -> bool:
        return bool(self._raft._SyncObj__raftState == CoreState.LEADER)

    @property
    def term(self) -> int:
        return int(self._raft._SyncObj__raftCurrentTerm)

    @property
    def leader_id(self) -> str | None:
        """PySyncObj's own field: None from any vote request until the next append."""
        leader = self._raft._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def commit_index(self) -> int:
        return int(self._raft._SyncObj__raftCommitIndex)

    @commit_index.setter
    def commit_index(self, index: int) -> None:
        self._raft._SyncObj__raftCommitIndex = index

    @property
    def applied_index(self) -> int:
        return int(self._raft._SyncObj__raftLastApplied)

    @applied_index.setter
    def applied_index(self, index: int) -> None:
        self._raft._SyncObj__raftLastApplied = index

    @property
    def noop_index(self) -> int:
        """Leader only: the entry that began this leadership."""
        return int(self._raft._SyncObj__noopIDx)

    @property
    def election_due_s(self) -> float:
        """When PySyncObj would stand for election."""
        return float(self._raft._SyncObj__raftElectionDeadline)

    @election_due_s.setter
    def election_due_s(self, instant_s: float) -> None:
        self._raft._SyncObj__raftElectionDeadline = instant_s

    @property
    def heartbeat_due_s(self) -> float:
        return float(self._raft._SyncObj__newAppendEntriesTime)

    @heartbeat_due_s.setter
    def heartbeat_due_s(self, instant_s: float) -> None:
        self._raft._SyncObj__newAppendEntriesTime = instant_s

    @property
    def handed_over(self) -> bool:
        """The leader has asked this node to stand, and the node has not stood yet."""
        return bool(self._raft._SyncObj__transferInProgress)

    def forget_hand_over(self) -> None:
        """Cancel an earlier leader's request to stand."""
        self._raft._SyncObj__transferInProgress = False

    def next_index(self, peer_id: str) -> int:
        """Leader only: the entry to send the peer next."""
        return int(self._raft._SyncObj__raftNextIndex[self._members[peer_id]])

    def set_next_index(self, peer_id: str, index: int) -> None:
        self._raft._SyncObj__raftNextIndex[self._members[peer_id]] = index

    def match_index(self, peer_id: str) -> int:
        """The last entry that the peer is known to hold; 0: none, or this node does not lead."""
        return int(self._raft._SyncObj__raftMatchIndex.get(self._members[peer_id], 0))

    def forget_match(self, peer_id: str) -> None:
        """Reset the peer's match index to 0."""
        self._raft._SyncObj__raftMatchIndex[self._members[peer_id]] = 0

    def contact_s(self, peer_id: str) -> float:
        """Leader only: the time of the peer's last answer, for PySyncObj's check for a majority."""
        return float(self._raft._SyncObj__lastResponseTime[self._members[peer_id]])

    def set_contact_s(self, peer_id: str, instant_s: float) -> None:
        self._raft._SyncObj__lastResponseTime[self._members[peer_id]] = instant_s

    def set_connected(self, peer_id: str, *, connected: bool) -> None:
        nodes = self._raft._SyncObj__connectedNodes
        (nodes.add if connected else nodes.discard)(self._members[peer_id])

    # ------------------------------------------------------------------ input

    def tick(self) -> None:
        """Stand if it is time, commit, step down without a majority, apply, send heartbeats."""
        self._raft.doTick(0.0)

    def deliver(self, peer_id: str, message: Mapping[str, Any]) -> None:
        """Hand the core a message in its own form."""
        self._raft._SyncObj__onMessageReceived(self._members[peer_id], message)

    def adopt_term(self, term: int) -> None:
        """Follow in a higher term, as on a vote request whose log is too old to be granted."""
        request = {"type": "request_vote", "term": term, "last_log_term": -1, "last_log_index": -1}
        self.deliver(self._peer_ids[0], request)

    def new_election_timeout_s(self) -> float:
        return float(self._raft._SyncObj__generateRaftTimeout())

    def hand_over(self, peer_id: str) -> bool:
        """Tell the peer to stand for election; False when it does not hold the whole log."""
        refusals: list[object] = []
        self._raft.transferLeadership(
            self._members[peer_id], lambda _, reason: refusals.append(reason)
        )
        return refusals == [syncobj.FAIL_REASON.SUCCESS]
