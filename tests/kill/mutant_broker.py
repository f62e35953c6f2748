"""tq-cluster with a planted bug, for tests alone: the product cannot be configured to have it.

The environment names the bug. If it names a folder for accounts, the journal's disk records there
what is really durable, so that a test can cut the power: see `powercut.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from chaos.nemeses.failpoint import SMALL_JOURNAL_VARIABLE
from chaos.run.mutants import BUG_VARIABLE
from tests.chaos.failpoint_broker import SMALL_JOURNAL
from tests.kill.powercut import ACCOUNTS_VARIABLE, LIE_VARIABLE, write_account
from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster import __main__ as tq_cluster
from tq_cluster.core.calls import report as reports
from tq_cluster.core.cluster import formation
from tq_cluster.core.kernel import batch, request_ids
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.budget import Budget
from tq_cluster.core.model import states
from tq_cluster.core.model.operations import FormCluster, Operation, Report
from tq_cluster.core.model.types import AppliedAt, TaskNumber
from tq_cluster.core.rows import tables
from tq_cluster.leader import committer, line
from tq_cluster.leader.leases import LeaseTable
from tq_cluster.node import node
from tq_cluster.offline import recover, recovering
from tq_cluster.raft import engine, members, replica, startup
from tq_cluster.raft.disk import FileDisk
from tq_cluster.raft.settings import RaftSettings, Rules
from tq_cluster.service import admission, wire
from tq_cluster.service.call import Call, Method
from tq_cluster.service.errors import CallError
from tq_cluster.service.routing import Request, Router
from tq_cluster.service.tasks import TaskServicer
from tq_cluster.storage import snapshot, store
from tq_cluster.storage.store import Store

NO_TOKEN_CHECK = "no token check"
NO_FSYNC = "no fsync"
NO_CHILDREN_WEIGHED = "children not weighed"
SNAPSHOT_GAP = 5


def take_any_token() -> None:
    """Record a report with any token while the task is running."""
    recognise = reports._recognise

    def record(
        space: Space,
        report: worker_service_pb2.TaskReport,
        number: TaskNumber,
        row: state_pb2.TaskRow,
        result: worker_service_pb2.ReportResult,
    ) -> None:
        take = reports._record if row.state == states.RUNNING else recognise
        take(space, report, number, row, result)

    mock.patch.object(reports, "_recognise", record).start()


def keep_account(*, lying: bool) -> None:
    """Write down what is durable; when ``lying``, sync nothing once the lie's file is there."""
    lie = Path(os.environ[LIE_VARIABLE])
    sync, sync_names, commit_due = FileDisk.sync, FileDisk.sync_names, Store.commit_due

    def honest() -> bool:
        return not (lying and lie.exists())

    def account_sync(disk: FileDisk, name: str) -> None:
        if honest():
            size = disk.size(name)
            sync(disk, name)
            write_account(disk.path / name, size)

    def account_names(disk: FileDisk) -> None:
        if honest():
            sync_names(disk)

    def account_commit(store: Store, now_s: float) -> bool:
        return honest() and commit_due(store, now_s)

    mock.patch.object(FileDisk, "sync", account_sync).start()
    mock.patch.object(FileDisk, "sync_names", account_names).start()
    mock.patch.object(Store, "commit_due", account_commit).start()


def sync_nothing() -> None:
    """Leave the journal to the page cache, and the state's commit for later."""
    mock.patch.object(FileDisk, "sync", return_value=None).start()
    mock.patch.object(Store, "commit_due", return_value=False).start()


def expire_by_the_wall_clock() -> None:
    """Keep leases' deadlines on a clock that can be set."""
    make = LeaseTable.__init__

    def on_the_wall(table: LeaseTable, now_s: Callable[[], float]) -> None:
        make(table, time.time)

    mock.patch.object(LeaseTable, "__init__", on_the_wall).start()
    mock.patch.object(LeaseTable, "expect_pass", return_value=None).start()


def forget_request_ids() -> None:
    """Forget every request id: a repeated call is a new one."""
    mock.patch.object(request_ids, "remember", return_value=None).start()


def claim_on_followers() -> None:
    """Let a follower hand out the tasks that its own disk lists as pending, as if it led."""
    resolve, make = Router._resolve, TaskServicer.__init__
    listing: list[TaskServicer] = []

    def kept(servicer: TaskServicer, **parts: Any) -> None:  # noqa: ANN401  # as the servicer's
        make(servicer, **parts)
        listing.append(servicer)

    async def answer(router: Router, method: Method, asked: Request, call: Call) -> bytes:
        leader = router._roles.leader(call.min_term)
        if method.name != "Claim" or call.hop or leader is None or leader.here:
            return await resolve(router, method, asked, call)
        claim = worker_service_pb2.ClaimRequest.FromString(asked.raw)
        pending = task_service_pb2.ListTasksRequest(
            queue=claim.queues[0],
            states=[task_pb2.TASK_STATE_PENDING],
            page_size=claim.max_tasks,
            read_level=task_service_pb2.READ_LEVEL_LOCAL,
        )
        reply = worker_service_pb2.ClaimResponse()
        try:
            listed = await listing[0].list_tasks(pending, call)
        except CallError:  # it has no state yet
            listed = task_service_pb2.ListTasksResponse()
        for task in listed.tasks:
            whole = task_service_pb2.GetTaskRequest(
                task_id=task.spec.task_id, read_level=task_service_pb2.READ_LEVEL_LOCAL
            )
            spec = (await listing[0].get_task(whole, call)).task.spec
            reply.tasks.add(spec=spec, token=time.time_ns() >> 10, attempt=1, lease=claim.lease)
        if reply.tasks:
            return reply.SerializeToString()
        return await resolve(router, method, asked, call)

    mock.patch.object(TaskServicer, "__init__", kept).start()
    mock.patch.object(Router, "_resolve", answer).start()


def misnumber_snapshots() -> None:
    """Label each snapshot with a few entries more than it holds."""
    check = vars(snapshot)["check_state"]

    def further(path: Path, *, rows: bool) -> AppliedAt:
        applied = check(path, rows=rows)
        return AppliedAt(index=applied.index + SNAPSHOT_GAP, term=applied.term)

    mock.patch("tq_cluster.storage.snapshot.check_state", further).start()


def begin_tokens_by_the_clock() -> None:
    """Leave no gap above the tokens of a restored state: tokens follow log time, as usual."""

    def begin(space: Space, operation: FormCluster) -> None:
        del operation
        space.workspace.delete(tables.META, tables.RESTORED_KEY)

    mock.patch.object(formation, "_begin_tokens", begin).start()


def count_tokens() -> None:
    """Let tokens follow the last one in the state, independent of the clocks."""
    begin_tokens_by_the_clock()
    mock.patch.object(batch, "tokens_by", return_value=0).start()


def quarantine_nothing() -> None:
    """Recover running tasks as if they had not run."""
    mock.patch.object(recovering, "_quarantine", return_value=[]).start()


def recover_the_state_alone() -> None:
    """Drop what the journal holds beyond the state: a second's work, here."""
    mock.patch.object(store, "COMMIT_SECONDS", 1.0).start()
    mock.patch.object(recovering, "_replay", return_value=None).start()


def promise_too_much() -> None:
    """Report that everything is certain up to the present."""
    tell = recover._report

    def told(*parts: Any) -> dict[str, object]:  # noqa: ANN401  # as the report's
        return {**tell(*parts), "certain_until": recover._instant(time.time_ns() // 10**6)}

    mock.patch.object(recover, "_report", told).start()


def choose_the_first_disk() -> None:
    """Recover from the disk that is named first."""
    mock.patch.object(recover, "choose", lambda survivors: survivors[0]).start()


def weigh_no_children() -> None:
    """Decide all tasks that completions submit in one entry and at once, with no weight."""

    def weigh(operation: Operation) -> tuple[int, int]:
        if isinstance(operation, Report):
            return 1 + len(operation.request.reports), 0
        return line.weigh(operation)

    mock.patch.object(committer, "weigh", weigh).start()
    mock.patch.object(committer, "SLICE_S", 3600.0).start()
    mock.patch.object(Budget, "spent_by", return_value=False).start()
    mock.patch.object(reports._Room, "take", return_value=None).start()


def count_by_the_file() -> None:
    """Count a majority of the members in the node's file, and ignore its disk."""

    def as_in_the_file(recorded: object, configured: Collection[str]) -> tuple[str, ...]:
        del recorded
        return tuple(sorted(configured))

    for module in (engine, members, startup):
        mock.patch.object(module, "counted", as_in_the_file).start()


def look_at_limits_late() -> None:
    """Decode every item of a request before checking the limit of items."""
    check = wire.check

    async def late(raw: bytes, rules: wire.MessageRules) -> list[int]:
        for number in rules.fields:
            wire.values(raw, number)
        return await check(raw, rules)

    mock.patch.object(admission, "check", late).start()


def without(rule: str) -> Callable[[], None]:
    """Switch off one of the rules around PySyncObj."""

    def plant() -> None:
        rules = dataclasses.replace(Rules(), **{rule: False})
        settings = RaftSettings(rules=rules)
        mock.patch.object(replica, "RaftSettings", return_value=settings).start()

    return plant


BUGS: Mapping[str, Callable[[], None]] = {
    NO_TOKEN_CHECK: take_any_token,
    NO_FSYNC: sync_nothing,
    "expiry by the wall clock": expire_by_the_wall_clock,
    "a follower that claims": claim_on_followers,
    "a forgotten request id": forget_request_ids,
    "a snapshot without its index": misnumber_snapshots,
    "tokens that only count": count_tokens,
    "tokens by the clock alone": begin_tokens_by_the_clock,
    "a recovery without quarantine": quarantine_nothing,
    "a recovery without the journal": recover_the_state_alone,
    "a report that promises too much": promise_too_much,
    "a recovery of the first disk": choose_the_first_disk,
    NO_CHILDREN_WEIGHED: weigh_no_children,
    "the quorum from the file": count_by_the_file,
    "a limit checked after use": look_at_limits_late,
    "truncation on overlap": without("keep_what_matches"),
    "acks counted across terms": without("terms_in_answers"),
}


def main() -> None:
    """Run tq-cluster with the bug that the environment names."""
    bug = os.environ.get(BUG_VARIABLE, "")
    if ACCOUNTS_VARIABLE in os.environ:
        if bug == NO_TOKEN_CHECK:
            take_any_token()
        keep_account(lying=bug == NO_FSYNC)
    elif bug:
        BUGS[bug]()
    if SMALL_JOURNAL_VARIABLE in os.environ:
        small = functools.partial(startup.open_data, limits=SMALL_JOURNAL)
        mock.patch.object(node, "open_data", small).start()
    tq_cluster.main()


if __name__ == "__main__":
    main()
