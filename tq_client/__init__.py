"""The client library: finds the leader, retries safely, coalesces submits.

    async with AsyncClient() as client:
        task_id = await client.submit("mail", "send", b"...")
        task = await client.wait(task_id)

`Client` is the same for programs without an event loop. Errors: `tq_client.errors`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tq_client.dependencies import After
from tq_client.specs import Backoff, Span, SpecFields, task_spec

if TYPE_CHECKING:
    from tq.v1.task_pb2 import TaskSpec
    from tq_client.async_client import AsyncClient
    from tq_client.calls import Answer
    from tq_client.client import Client
    from tq_client.dead_letters import DeadLetterFilter
    from tq_client.enums import (
        AttemptEnd,
        CancelReason,
        DependencyOutcome,
        FailureReason,
        Ordering,
        ReadLevel,
        TaskState,
    )
    from tq_client.errors import Reason, TqError
    from tq_client.model import (
        Attempt,
        Cancellation,
        Deletion,
        DependencyStatus,
        QueueSettings,
        QueueStats,
        QueueTotals,
        Redrive,
        Task,
    )
    from tq_common.clock import boottime_s

__all__ = [
    "After",
    "Answer",
    "AsyncClient",
    "Attempt",
    "AttemptEnd",
    "Backoff",
    "CancelReason",
    "Cancellation",
    "Client",
    "DeadLetterFilter",
    "Deletion",
    "DependencyOutcome",
    "DependencyStatus",
    "FailureReason",
    "Ordering",
    "QueueSettings",
    "QueueStats",
    "QueueTotals",
    "ReadLevel",
    "Reason",
    "Redrive",
    "Span",
    "SpecFields",
    "Task",
    "TaskSpec",
    "TaskState",
    "TqError",
    "boottime_s",
    "task_spec",
]

# Modules that make calls are imported on first use: a handler process imports this package for the
# options of `@task`, and needs no gRPC.
_MODULES = {
    "tq.v1.task_pb2": ("TaskSpec",),
    "tq_client.async_client": ("AsyncClient",),
    "tq_client.calls": ("Answer",),
    "tq_client.client": ("Client",),
    "tq_client.dead_letters": ("DeadLetterFilter",),
    "tq_client.enums": (
        *("AttemptEnd", "CancelReason", "DependencyOutcome", "FailureReason"),
        *("Ordering", "ReadLevel", "TaskState"),
    ),
    "tq_client.errors": ("Reason", "TqError"),
    "tq_client.model": (
        *("Attempt", "Cancellation", "DependencyStatus", "Task"),
        *("Deletion", "Redrive"),
        *("QueueSettings", "QueueStats", "QueueTotals"),
    ),
    "tq_common.clock": ("boottime_s",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # PEP 562
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(module), name)
    return found
