"""`tq-admin backup`: one file that holds all of a cluster's state at one entry of its log."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, cast

import grpc
import typer

from tq.v1.cluster_service_pb2 import (
    BackupRequest,
    BackupResponse,
    BackupSummary,
    GetClusterStatusResponse,
    NodeStatus,
)
from tq.v1.cluster_service_pb2_grpc import ClusterServiceStub
from tq_admin.cluster import CHANNEL_OPTIONS, STATUS_S, ask_in_turn
from tq_admin.failures import ExitCode, Failure, refused
from tq_admin.output import details, instant, size
from tq_admin.plain import plain
from tq_admin.session import Session
from tq_client.errors import OutcomeUnknownError, TqError, of_rpc

if TYPE_CHECKING:
    from grpc.aio import AioRpcError

# Detect a silent node, although a stream has no deadline for its next message.
STREAM_OPTIONS = (
    *CHANNEL_OPTIONS,
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 4 << 20),
)
DIGEST_BYTES = hashlib.sha256().digest_size


def backup(
    session: Session,
    file: Annotated[Path, typer.Argument(help="Where to; there must be nothing yet.")],
    node: Annotated[
        str, typer.Option(help="Whose state to copy. Default: a follower that is up to date.")
    ] = "",
) -> None:
    """Copy the cluster's state to one file while everything goes on.

    The file holds everything that was acknowledged before the command began, and ends at one entry
    of the log. Check it with `tq-cluster check-backup`; make a new cluster of it with
    `tq-cluster restore`.
    """
    if file.exists():
        raise Failure(f"{file} exists already", "Choose a name that is not taken.", ExitCode.USAGE)
    _, cluster = ask_in_turn(session.addresses, min(STATUS_S, session.timeout_s))
    source = _source(cluster, node)
    request = BackupRequest(
        min_applied_index=max(each.commit_index for each in cluster.nodes if each.reachable)
    )
    try:
        with (
            grpc.insecure_channel(source.address, options=STREAM_OPTIONS) as channel,
            _written(file) as partial,
        ):
            summary = _receive(ClusterServiceStub(channel).Backup(request), partial, file)
    except grpc.RpcError as error:
        raise _broken(source.node_id, of_rpc(cast("AioRpcError", error))) from error
    data = {"file": str(file), **plain(summary)}
    session.output.show(data, lambda: details(_facts(data)))


def _source(cluster: GetClusterStatusResponse, wanted: str) -> NodeStatus:
    """Choose the node to copy: among reachable ones a follower, and with the least lag."""
    if wanted:
        named = [each for each in cluster.nodes if each.node_id == wanted]
        if not named:
            right = ", ".join(each.node_id for each in cluster.nodes)
            raise Failure(f"{wanted} is no member", f"Members are {right}.", ExitCode.USAGE)
        if not named[0].reachable:
            raise Failure(
                f"{wanted} cannot be reached: {named[0].unreachable_reason}",
                "Leave --node away to have another node make the backup.",
                ExitCode.UNREACHABLE,
            )
        return named[0]
    following = [each for each in cluster.nodes if each.reachable]
    return min(
        following,
        key=lambda each: (
            each.role not in {NodeStatus.ROLE_FOLLOWER, NodeStatus.ROLE_LEADER},
            each.role == NodeStatus.ROLE_LEADER,
            each.lag_entries,
        ),
    )


@contextmanager
def _written(file: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only once it is whole and on disk; else it is deleted."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        target = partial.open("xb")
    except FileExistsError:
        raise Failure(
            f"{partial} exists: another backup to {file} is under way, or one was cut off",
            "If none is, remove that file, or choose another name.",
        ) from None
    except OSError as error:
        raise _unwritable(file, error) from error
    try:
        with target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        partial.rename(file)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _unwritable(file, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _unwritable(file: Path, error: OSError) -> Failure:
    return Failure(f"{file} cannot be written: {error.strerror}", "Choose another place for it.")


def _receive(parts: Iterator[BackupResponse], target: BinaryIO, file: Path) -> BackupSummary:
    """Write the received parts; raises Failure unless the file is complete and intact."""
    summary = next(parts, BackupResponse()).summary
    if not summary.file_bytes:
        raise Failure("the broker sent no backup", "Is it of another version?")
    free_bytes = shutil.disk_usage(file.parent).free
    if free_bytes < summary.file_bytes:
        raise Failure(
            f"{file.parent} has {size(free_bytes)} free, the backup takes"
            f" {size(summary.file_bytes)}",
            "Choose a folder with more room.",
        )
    digest, written, held = hashlib.sha256(), 0, b""
    for part in parts:
        target.write(part.data)
        written += len(part.data)
        # The last bytes are the digest of all others; only the end shows which they are.
        held += part.data
        digest.update(held[:-DIGEST_BYTES])
        held = held[-DIGEST_BYTES:]
    if written != summary.file_bytes or held != digest.digest():
        raise Failure(
            f"what arrived is not what was sent: {written} of {summary.file_bytes} bytes, SHA-256"
            f" {digest.hexdigest()} instead of {held.hex()}",
            "Run the command again.",
        )
    return summary


def _broken(node_id: str, error: TqError) -> Failure:
    if isinstance(error, OutcomeUnknownError):  # a backup changes nothing
        return Failure(
            f"the backup of {node_id} broke off ({error.message}); nothing of it was kept",
            "Run it again, or have another node make it: --node",
            ExitCode.UNREACHABLE,
        )
    return refused(f"no backup of {node_id} was made", error)


def _facts(data: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("file", data["file"]),
        ("size", size(data["file_bytes"])),
        ("cluster", data["cluster_id"]),
        ("state of", data["node_id"]),
        ("up to entry", f"{data['applied_index']} of term {data['applied_term']}"),
        ("made at", instant(data["made_at"])),
    ]
