"""tq-cluster with a bug planted, for tests alone: nothing that ships can be told to do this.

The environment names the bug. Where it names a folder for accounts, the journal's disk keeps
account there of what it really made durable, so that a test can cut the power: see `powercut.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from tests.kill.powercut import ACCOUNTS_VARIABLE, LIE_VARIABLE, write_account
from tq.internal.v1 import state_pb2
from tq.v1 import worker_service_pb2
from tq_cluster import __main__ as tq_cluster
from tq_cluster.core import reports, states
from tq_cluster.core.batch import Space
from tq_cluster.core.types import TaskNumber
from tq_cluster.raft.disk import FileDisk
from tq_cluster.storage.store import Store

BUG_VARIABLE = "PLANTED_BUG"
NO_TOKEN_CHECK = "no token check"
NO_FSYNC = "no fsync"


def take_any_token() -> None:
    """Record a report whatever its token, as long as the task is running."""
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


if __name__ == "__main__":
    bug = os.environ.get(BUG_VARIABLE, "")
    if bug == NO_TOKEN_CHECK:
        take_any_token()
    if ACCOUNTS_VARIABLE in os.environ:
        keep_account(lying=bug == NO_FSYNC)
    tq_cluster.main()
