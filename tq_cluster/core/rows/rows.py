"""Read and write content that does not fit one row, and rows with several readers."""

from __future__ import annotations

from collections.abc import Iterator

from tq.internal.v1 import state_pb2
from tq.v1 import task_pb2
from tq_cluster.core.model.types import TaskNumber
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.view import View, Workspace


def put_chunks(workspace: Workspace, table: int, prefix: bytes, number: int, content: bytes) -> int:
    """Store ``content`` in chunks and return how many."""
    count = 0
    for start in range(0, len(content), tables.CHUNK_BYTES):
        piece = content[start : start + tables.CHUNK_BYTES]
        workspace.put(table, tables.chunk_key(prefix, number, count), piece)
        count += 1
    return count


def read_chunks(view: View, table: int, prefix: bytes, number: int, count: int) -> bytes:
    """Return the content stored in ``count`` chunks."""
    start = tables.chunk_key(prefix, number, 0)
    stop = tables.chunk_key(prefix, number, count)
    pieces = [piece for _, piece in view.scan(table, start, stop, limit=count)]
    assert len(pieces) == count, f"task {number} has {len(pieces)} of {count} chunks"
    return b"".join(pieces)


def delete_chunks(workspace: Workspace, table: int, prefix: bytes, number: int, count: int) -> None:
    """Remove the ``count`` chunks of a task's payload or result."""
    for chunk in range(count):
        workspace.delete(table, tables.chunk_key(prefix, number, chunk))


def put_spec(
    workspace: Workspace,
    prefix: bytes,
    number: int,
    spec: task_pb2.TaskSpec,
    task_id: str,
    traceparent: str = "",
) -> int:
    """Store a spec under its final id and return the number of its payload's chunks.

    ``traceparent`` is stored if the spec names none. Dependencies are left out.
    """
    stored = task_pb2.TaskSpec()
    stored.CopyFrom(spec)
    stored.DiscardUnknownFields()  # no limit was checked for them
    stored.task_id = task_id
    if spec.depends_on:
        stored.ClearField("depends_on")  # they have a row of their own
    if traceparent and not spec.traceparent:
        stored.traceparent = traceparent
    chunks = 0
    if len(spec.payload) > tables.INLINE_BYTES_MAX:
        chunks = put_chunks(workspace, tables.PAYLOADS, prefix, number, spec.payload)
        stored.payload = b""
    row = stored.SerializeToString(deterministic=True)
    workspace.put(tables.SPECS, tables.number_key(prefix, number), row)
    return chunks


def read_spec(view: View, prefix: bytes, number: int, payload_chunks: int = 0) -> task_pb2.TaskSpec:
    """Return a task's spec, with its payload if the row or ``payload_chunks`` chunks hold it."""
    row = view.get(tables.SPECS, tables.number_key(prefix, number))
    assert row is not None, f"task {number} has no spec"
    spec = task_pb2.TaskSpec.FromString(row)
    if payload_chunks:
        spec.payload = read_chunks(view, tables.PAYLOADS, prefix, number, payload_chunks)
    return spec


def read_task(view: View, prefix: bytes, number: int) -> state_pb2.TaskRow:
    """Return the row of a task that an index or an id names."""
    row = view.get(tables.TASKS, tables.number_key(prefix, number))
    assert row is not None, f"task {number} has no row"
    return state_pb2.TaskRow.FromString(row)


def find_task(
    view: View, prefix: bytes, task_id: str
) -> tuple[TaskNumber, state_pb2.TaskRow] | None:
    """Return number and row of the task with this id, if there is one."""
    number = find_task_number(view, prefix, task_id)
    return None if number is None else (number, read_task(view, prefix, number))


def find_task_number(view: View, prefix: bytes, task_id: str) -> TaskNumber | None:
    """Return the number of the task with this id, if there is one."""
    found = view.get(tables.TASK_IDS, tables.name_key(prefix, task_id))
    return None if found is None else TaskNumber(int.from_bytes(found, "big"))


def read_result(view: View, prefix: bytes, number: int) -> state_pb2.ResultRow:
    """Return a task's result row, without its chunks."""
    row = view.get(tables.RESULTS, tables.number_key(prefix, number))
    assert row is not None, f"task {number} has no result"
    return state_pb2.ResultRow.FromString(row)


def read_history(
    view: View, prefix: bytes, number: int, row: state_pb2.TaskRow, limit: int
) -> list[state_pb2.AttemptRow]:
    """Return up to ``limit`` of a task's ended attempts, the newest first."""
    return list(newest_attempts(view, prefix, number, row, limit))


def newest_attempts(
    view: View, prefix: bytes, number: int, row: state_pb2.TaskRow, limit: int
) -> Iterator[state_pb2.AttemptRow]:
    """Yield up to ``limit`` of a task's ended attempts, the newest first, read one by one."""
    if not row.history_length:
        return
    start = tables.attempt_key(prefix, number, 0)
    stop = tables.attempt_key(prefix, number, row.history_length)
    for _, value in view.scan(tables.ATTEMPTS, start, stop, limit=limit, reverse=True):
        yield state_pb2.AttemptRow.FromString(value)


def read_queue_id(view: View, prefix: bytes, name: str) -> int | None:
    """Return the number of the queue with this name, if there is one."""
    found = view.get(tables.QUEUE_IDS, tables.name_key(prefix, name))
    return None if found is None else int.from_bytes(found, "big")
