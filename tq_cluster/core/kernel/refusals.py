"""Refusals of calls that name a missing task, queue or namespace."""

from __future__ import annotations

from tq.v1 import errors_pb2
from tq_cluster.core.model.operations import (
    Refused,
)


def no_such_task(task_id: str) -> Refused:
    """Return the refusal of a call that names a missing task."""
    return Refused(
        reason=errors_pb2.ERROR_REASON_NOT_FOUND,
        message=f"there is no task {task_id[:200]!r}: never submitted, or past its retention",
        field="task_id",
        metadata={"field": "task_id"},
    )


def no_such_queue(name: str) -> Refused:
    """Return the refusal of a call that names a missing queue."""
    return Refused(
        reason=errors_pb2.ERROR_REASON_NOT_FOUND,
        message=f"there is no queue {name[:128]!r}: no task has named it",
        field="queue",
        metadata={"field": "queue"},
    )


def no_such_namespace(field: str, name: str) -> Refused:
    """Return the refusal of a call that names a missing namespace in ``field``."""
    return Refused(
        reason=errors_pb2.ERROR_REASON_NOT_FOUND,
        message=f"there is no namespace {name[:64]!r}; a call without {field} is for the default",
        field=field,
        metadata={"field": field, "namespace": name[:64]},
    )
