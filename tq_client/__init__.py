"""The client library: finds the leader, retries safely, coalesces submits.

    async with AsyncClient() as client:
        task_id = await client.submit("mail", "send", b"...")
        task = await client.wait(task_id)

`Client` is the same for programs without an event loop. Errors: `tq_client.errors`.
"""

from tq.v1.queue_service_pb2 import QueueSettings, QueueStats
from tq.v1.task_pb2 import RetryPolicy, Task, TaskSpec, TaskState
from tq.v1.task_service_pb2 import ReadLevel
from tq_client.async_client import AsyncClient
from tq_client.calls import Answer, boottime_s
from tq_client.client import Client
from tq_client.errors import Reason, TqError
from tq_client.specs import SpecFields, task_spec

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "QueueSettings",
    "QueueStats",
    "ReadLevel",
    "Reason",
    "RetryPolicy",
    "SpecFields",
    "Task",
    "TaskSpec",
    "TaskState",
    "TqError",
    "boottime_s",
    "task_spec",
]
