"""The worker: claims tasks and runs handlers under their leases.

A handler module needs only what is exported here.
"""

from tq_worker.context import Cancellation, Result, TaskContext
from tq_worker.errors import PermanentError, RetryableError, TaskCancelledError
from tq_worker.registry import task

__all__ = [
    "Cancellation",
    "PermanentError",
    "Result",
    "RetryableError",
    "TaskCancelledError",
    "TaskContext",
    "task",
]
