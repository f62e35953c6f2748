"""tq-cluster check-backup and restore: show what a backup holds, and make a new cluster of it."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tq.internal.v1 import backup_pb2
from tq_cluster.clock import Clock
from tq_cluster.config import NodeConfig
from tq_cluster.errors import FatalError, StartError
from tq_cluster.offline.restoring import restore_data
from tq_cluster.raft.members import require_may_form
from tq_cluster.storage.backup import BackupError, check_backup, read_header

CLOCK_SLACK_MS = 60_000


def check(path: Path, scratch_dir: Path | None) -> str:
    """Check all of a backup and say what it holds; StartError says what is wrong."""
    folder = scratch_dir or path.parent
    try:
        header = read_header(path)
        _require_scratch(folder, header.state_bytes)
        # A unique name: another check of the same file may be under way.
        with TemporaryDirectory(prefix=f"{path.name}.checking-", dir=folder) as scratch:
            check_backup(path, Path(scratch) / "state")
    except BackupError as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(
            f"{folder} cannot hold the state meanwhile: {error.strerror or error}; name another"
            " folder with --scratch"
        ) from error
    return f"{path} is whole.\n{described(header)}"


def restore(path: Path, config: NodeConfig, clock: Clock) -> str:
    """Make one member's data directory of a backup and print the next steps."""
    try:
        # Checked before the work: its broker would refuse to start.
        require_may_form(None, config.members, single=config.single)
        header = read_header(path)
        _check_clock(header, clock)
        restored = restore_data(
            path, config.data_dir, node_id=config.node_id, draw=random.SystemRandom()
        )
    except (BackupError, FatalError) as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(
            f"{error.filename or config.data_dir} cannot be used: {error.strerror or error}"
        ) from error
    others = ", ".join(name for name in config.members if name != config.node_id)
    then = f"Restore {others} from the same file, then start all of them" if others else "Start it"
    return (
        f"{config.data_dir} holds node {config.node_id} of a new cluster, from entry"
        f" {restored.applied.index} on.\n{described(restored.header)}\n{then}: the new cluster is"
        " formed once every member has answered. Every lease of the old one has ended."
    )


def described(header: backup_pb2.BackupHeader) -> str:
    """Describe a backup by its header, for operators."""
    lines = {
        "backup": header.backup_id,
        "cluster": header.cluster_id,
        "state of": header.node_id,
        "up to entry": f"{header.applied_index} of term {header.applied_term}",
        "made at": f"{_instant(header.made_at_ms)} by tq {header.version}",
        "log time": _instant(header.log_time_ms),
        "cluster version": header.cluster_version,
        "state": f"{header.state_bytes} bytes",
    }
    return "\n".join(f"  {name + ':':<17}{value}" for name, value in lines.items())


def _require_scratch(folder: Path, state_bytes: int) -> None:
    free = os.statvfs(folder)
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < state_bytes:
        raise StartError(
            f"{folder} has {free_bytes >> 20} MiB free, to check this backup takes"
            f" {(state_bytes >> 20) + 1} MiB: name another folder with --scratch"
        )


def _check_clock(header: backup_pb2.BackupHeader, clock: Clock) -> None:
    """Refuse a clock in the past: new tokens follow it and must be above all earlier ones."""
    now_ms = clock.wall_ms()
    if now_ms + CLOCK_SLACK_MS < header.made_at_ms:
        raise StartError(
            f"this machine's clock says {_instant(now_ms)}, but the backup was made at"
            f" {_instant(header.made_at_ms)}: set the clock right first, fencing tokens go by it"
        )


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
