"""What a leader does for the cluster itself: raise its version, fill tables, compare states."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from tq.internal.v1 import state_pb2
from tq.v1 import cluster_service_pb2 as pb
from tq_cluster.core.cluster.scrubbing import SCRUB_VERSION, scrub_row
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.housekeeping import backfill
from tq_cluster.core.kernel.validation import invalid
from tq_cluster.core.model.operations import (
    EndScrub,
    Filled,
    FillTables,
    HashState,
    Operation,
    RaiseVersion,
    Refused,
    Replied,
)
from tq_cluster.core.model.types import TimestampMs
from tq_cluster.core.reads import queries
from tq_cluster.core.rows.view import View
from tq_cluster.errors import StateDiffersError
from tq_cluster.leader.housekeeping import Source
from tq_cluster.leader.scrub import Difference, Scrub
from tq_cluster.leader.sources import Chore
from tq_cluster.raft.log_api import Log
from tq_cluster.storage.hashing import HashedRange

_logger = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""How often the leader checks for a version to raise and for members that have not answered."""
FIRST_S: Final = 30.0
"""How long a new leader waits before it compares states."""
EVERY_MS: Final = 4 * 3_600_000
"""How long after the end of a pass the next one begins."""
PASS_S: Final = 4 * 3_600
"""The longest pass, unless the state is so large that ranges follow without a pause."""
RANGE_S: Final = 1.0
URGENT_S: Final = 0.02
"""Between two ranges of a pass that an operator waits for: at most a tenth of a processor."""
FILL_ROWS: Final = 500
"""How many rows one entry fills: some milliseconds of work."""
FILL_S: Final = 0.02
FILL_SHARE: Final = 0.25
"""The pause before the next slice is at least FILL_S, and long enough that filling takes at most
this share of the log's time: a call that comes meanwhile mostly waits only for its own entry.
"""
RANGE_ROWS: Final = 250
"""Estimated rows of a range, for the pace: rows are seldom so large that it holds fewer."""


class ScrubbedState(Protocol):
    """The applied state."""

    def view(self) -> View:
        """Return everything applied so far."""

    def row_count(self) -> int:
        """Return the number of rows."""


class ClusterTasks:
    """Provides the leader's operations for the cluster, and handles their results."""

    def __init__(
        self,
        *,
        node_id: str,
        log: Log,
        state: ScrubbedState,
        now_ms: Callable[[], TimestampMs],
        fatal: Callable[[BaseException], None],
        differed: Callable[[], None] = lambda: None,
        disk_pressure: Callable[[], bool] = lambda: False,
    ) -> None:
        """``differed`` is called for every difference found; ``fatal`` ends the process.

        While ``disk_pressure`` holds, no table is filled.
        """
        self._node_id = node_id
        self._log = log
        self._state = state
        self._now_ms = now_ms
        self._fatal = fatal
        self._differed = differed
        self._disk_pressure = disk_pressure
        self._loop = asyncio.get_running_loop()
        self._scrub = Scrub(node_id=node_id, members=self._members, differs=self._tell_difference)
        self._leads = False
        self._fills = False
        """Whether something was left to fill at the last check."""
        self._hurries = False
        """Whether an operator waited for a pass at the last look."""
        self._look_at_s = self._next_range_s = self._fill_at_s = self._fill_asked_s = 0.0
        self._hashed_at_s = -URGENT_S
        self._begin_after_ms: int | None = None
        """A pass was requested; it has begun once the row names a later beginning than this."""
        self._pass_ms = 0
        """When the pass that is being compared began."""
        self._range_pause_s = RANGE_S
        self._hashed: HashedRange | None = None
        """This node's hash of the last range of this pass."""
        log.on_hash(self._scrub.answer)

    def begin(self) -> None:
        """Start: this node leads."""
        self._leads = True
        self._hashed = None
        self._begin_after_ms = None
        self._scrub.clear()
        self._look_at_s = 0.0
        self._next_range_s = self._loop.time() + FIRST_S

    def end(self) -> None:
        """Stop: this node no longer leads."""
        self._leads = False

    def sources(self) -> Sequence[Source]:
        """Return the sources: raising the version, filling tables, comparing states."""
        return (
            Chore("version", self._raising),
            Chore("backfill", self._filling, self._begin_slice, busy=lambda: self._fills),
            Chore("scrub", self._scrubbing, busy=lambda: self._hurries),
        )

    def _raising(self) -> Operation | None:
        now_s = self._loop.time()
        if not self._leads or now_s < self._look_at_s:
            return None
        common = self._log.common_version()
        if common is not None and 0 < queries.cluster_version(self._state.view()) < common:
            return RaiseVersion(cluster_version=common)
        self._look_at_s = now_s + LOOK_S
        self._fills = backfill.is_under_way(self._state.view())
        self._scrub.review()
        return None

    def _filling(self) -> Operation | None:
        now_s = self._loop.time()
        if not self._leads or not self._fills or now_s < self._fill_at_s or self._disk_pressure():
            return None
        return FillTables(rows_max=FILL_ROWS)

    def _begin_slice(self) -> None:
        self._fill_asked_s = self._loop.time()

    def _scrubbing(self) -> Operation | None:
        if not self._leads:
            return None
        view = self._state.view()
        row = scrub_row(view)
        self._hurries = row.urgent or self._begin_after_ms is not None
        due_s = self._hashed_at_s + URGENT_S if self._hurries else self._next_range_s
        if self._loop.time() < due_s or not self._may_hash(view):
            return None
        return self._next_range(row)

    def to_fill(self) -> None:
        """Note that there is a table to fill."""
        self._fills = True

    def filled(self, found: Filled) -> None:
        """Handle a slice of the filling that is applied."""
        now_s = self._loop.time()
        pause_s = (now_s - self._fill_asked_s) * (1 / FILL_SHARE - 1)
        self._fill_at_s = now_s + max(FILL_S, pause_s)
        if found.complete:
            self._fills = False
            _logger.info("tables are filled", extra={"rows": found.rows})

    def hashed(self, found: HashedRange) -> None:
        """Handle a range that this node has hashed because an entry named it."""
        # Sent to all members, so that a member that differs can detect that itself.
        self._log.share_hash(found.index, found.digest)
        if not self._leads:
            return
        self._hashed = found
        row = scrub_row(self._state.view())
        if self._begin_after_ms is not None and row.began_at_ms > self._begin_after_ms:
            self._begin_after_ms = None
        self._hashed_at_s = self._loop.time()
        if row.began_at_ms != self._pass_ms:
            self._pass_ms = row.began_at_ms
            self._scrub.begin_pass()
            # Once a pass: counting the rows costs as much as hashing a range.
            self._range_pause_s = self._pause_s()
        self._next_range_s = self._hashed_at_s + self._range_pause_s
        where = f"table {row.table} from key {row.from_key.hex() or 'its first'}"
        self._scrub.ask(found.index, where, found.digest)

    def verify(self, request: pb.VerifyStateRequest) -> Replied | Refused:
        """Report the progress of the comparison; begin a pass if the request asks for one."""
        view = self._state.view()
        row = scrub_row(view)
        if request.start:
            if not self._may_hash(view):
                return invalid(
                    "start",
                    f"needs cluster version {SCRUB_VERSION}, this is"
                    f" {queries.cluster_version(view)}; upgrade every broker",
                )
            self._begin_after_ms = row.began_at_ms
        reply = pb.VerifyStateResponse(
            rows=row.rows + (self._hashed.rows if self._hashed is not None else 0),
            rows_total=self._state.row_count(),
            last_rows=row.last_rows,
            nodes=[
                pb.VerifiedNode(
                    node_id=node_id,
                    ranges_agreed=self._scrub.agreed(node_id),
                    unanswered_index=self._scrub.unanswered(node_id),
                )
                for node_id in sorted(self._members())
            ],
            differences=[
                pb.StateDifference(
                    node_id=each.node_id,
                    index=each.index,
                    message=_described(each),
                    earlier=each.earlier,
                )
                for each in self._scrub.differences
            ],
        )
        for field, at_ms in (
            (reply.began_at, row.began_at_ms),
            (reply.last_began_at, row.last_began_at_ms),
            (reply.last_finished_at, row.last_finished_at_ms),
        ):
            if at_ms:
                field.FromMilliseconds(at_ms)
        return Replied(reply=reply)

    def _next_range(self, row: state_pb2.ScrubRow) -> Operation | None:
        if self._begin_after_ms is not None:
            return HashState(begins=True, urgent=True)
        if not row.began_at_ms:
            due_ms = row.last_finished_at_ms + EVERY_MS
            return HashState(begins=True) if self._now_ms() >= due_ms else None
        found = self._hashed
        if found is None:  # this leader continues another's pass, at its last range
            return HashState(table=row.table, from_key=row.from_key, rows=row.rows)
        rows = row.rows + found.rows
        if found.next is None:
            return EndScrub(rows=rows)
        table, from_key = found.next
        return HashState(table=table, from_key=from_key, rows=rows)

    def _may_hash(self, view: View) -> bool:
        return SCRUB_VERSION <= queries.cluster_version(view) <= CLUSTER_VERSION

    def _pause_s(self) -> float:
        ranges = max(1, self._state.row_count() // RANGE_ROWS)
        return min(RANGE_S, PASS_S / ranges)

    def _members(self) -> set[str]:
        return {self._node_id, *self._log.status().peers}

    def _tell_difference(self, difference: Difference) -> None:
        self._differed()
        message = _described(difference)
        _logger.error(
            "states differ",
            extra={"node": difference.node_id or "(unknown)", "index": difference.index},
        )
        if difference.node_id == self._node_id:
            self._fatal(StateDiffersError(message))
        elif difference.node_id:
            self._log.stop_differing(difference.node_id, message)


def _described(difference: Difference) -> str:
    where = f"{difference.where}, as of entry {difference.index}"
    if not difference.node_id:
        return (
            f"members differ in {where}, and no majority agrees: start the members that are down,"
            " or compare the disks offline"
        )
    return (
        f"the state of {difference.node_id} is not the majority's in {where}: it stops, and started"
        " again it sets its state aside and takes the others'"
    )
