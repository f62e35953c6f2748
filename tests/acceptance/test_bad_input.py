"""Bad input through the API of a real cluster: each a clear error, and nothing is lost."""

from __future__ import annotations

import asyncio
import math
from typing import Any, NamedTuple, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from chaos.cluster.processes import ProcessCluster
from tests.patience import PATIENCE_S
from tq.v1 import (
    cluster_service_pb2,
    errors_pb2,
    queue_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_service_pb2,
)

pytestmark = pytest.mark.cluster

Spec = task_pb2.TaskSpec
Policy = task_pb2.RetryPolicy
Submit = task_service_pb2.SubmitRequest
Report = worker_service_pb2.ReportRequest
TaskReport = worker_service_pb2.TaskReport
Completion = worker_service_pb2.Completion
Told = tuple[str, str]
"""A reason, or a report's status, and the field at fault."""

NEGATIVE = Duration(seconds=-1)
HUGE = Duration(seconds=2**62)
TWO_SIGNS = Duration(seconds=1, nanos=-1)
TOO_MANY_NANOS = Duration(seconds=1, nanos=1_000_000_000)
FIRST = "acknowledged-before"
HELD = "held"
MIB = 1 << 20
# The stubs of other languages send any number.
NO_LEVEL = cast(task_service_pb2.ReadLevel.ValueType, 9)
NO_STATE = cast(task_pb2.TaskState.ValueType, 99)
NO_ORDERING = cast(queue_service_pb2.QueueSettings.Ordering.ValueType, 9)

REPLIES: dict[str, type[Message]] = {
    "TaskService/Submit": task_service_pb2.SubmitResponse,
    "TaskService/GetTask": task_service_pb2.GetTaskResponse,
    "TaskService/ListTasks": task_service_pb2.ListTasksResponse,
    "TaskService/WaitTask": task_service_pb2.WaitTaskResponse,
    "TaskService/CancelTask": task_service_pb2.CancelTaskResponse,
    "WorkerService/Claim": worker_service_pb2.ClaimResponse,
    "WorkerService/Heartbeat": worker_service_pb2.HeartbeatResponse,
    "WorkerService/Report": worker_service_pb2.ReportResponse,
    "WorkerService/ListWorkers": worker_service_pb2.ListWorkersResponse,
    "QueueService/GetQueueStats": queue_service_pb2.GetQueueStatsResponse,
    "QueueService/ListQueues": queue_service_pb2.ListQueuesResponse,
    "QueueService/ConfigureQueue": queue_service_pb2.ConfigureQueueResponse,
    "QueueService/DeleteQueue": queue_service_pb2.DeleteQueueResponse,
    "QueueService/ListDeadLetters": queue_service_pb2.ListDeadLettersResponse,
    "QueueService/Redrive": queue_service_pb2.RedriveResponse,
    "QueueService/DeleteDeadLetters": queue_service_pb2.DeleteDeadLettersResponse,
    "QueueService/PurgeQueue": queue_service_pb2.PurgeQueueResponse,
    "ClusterService/GetClusterStatus": cluster_service_pb2.GetClusterStatusResponse,
    "ClusterService/GetNodeStatus": cluster_service_pb2.GetNodeStatusResponse,
    "ClusterService/TransferLeadership": cluster_service_pb2.TransferLeadershipResponse,
    "ClusterService/ReplaceNode": cluster_service_pb2.ReplaceNodeResponse,
}


class Row(NamedTuple):
    """A call, and what it is to be told."""

    method: str
    request: Message | bytes
    told: Told


def invalid(field: str) -> Told:
    return "INVALID_ARGUMENT", field


def submit(told: Told, **fields: Any) -> Row:  # noqa: ANN401  # any field of a spec
    spec = {"queue": "bad", "type": "noop", **fields}
    return Row("TaskService/Submit", Submit(tasks=[Spec(**spec)]), told)


SPECS = {
    **{
        f"{field} {name}": submit(invalid(field), **{field: value})
        for field in ("queue", "type")
        for name, value in {
            "empty": "",
            "of 129": "a" * 129,
            "in Unicode": "\u00e9",
            "with a newline": "a\n",
            "with a NUL": "a\0b",
        }.items()
    },
    "task_id of 201": submit(invalid("task_id"), task_id="a" * 201),
    "task_id with a newline": submit(invalid("task_id"), task_id="a\n"),
    "task_id that is taken": submit(("TASK_EXISTS", "task_id"), task_id=FIRST),
    "priority 256": submit(invalid("priority"), priority=256),
    "priority 2**32-1": submit(invalid("priority"), priority=2**32 - 1),
    "max_attempts 1001": submit(invalid("max_attempts"), max_attempts=1_001),
    "payload over 10 MiB": submit(("PAYLOAD_TOO_LARGE", "payload"), payload=bytes(10 * MIB + 1)),
    "labels, 33": submit(invalid("labels"), labels={f"k{n}": "" for n in range(33)}),
    "label without a key": submit(invalid("labels"), labels={"": "v"}),
    "label of 257": submit(invalid("labels[k]"), labels={"k": "v" * 257}),
    "content_type of 129": submit(invalid("content_type"), content_type="a" * 129),
    "traceparent of 129": submit(invalid("traceparent"), traceparent="a" * 129),
    "run_at in 9999": submit(invalid("run_at"), run_at=Timestamp(seconds=253_402_300_799)),
    "run_at before 1970": submit(invalid("run_at"), run_at=Timestamp(seconds=-1)),
    "expire_at after 9999": submit(
        invalid("expire_at"), expire_at=Timestamp(seconds=253_402_300_800)
    ),
    **{
        f"{field} {value.seconds} s {value.nanos} ns": submit(invalid(field), **{field: value})
        for field in ("timeout", "retention")
        for value in (NEGATIVE, HUGE, TWO_SIGNS, TOO_MANY_NANOS)
    },
    **{
        f"multiplier {value}": submit(
            invalid("retry_policy.multiplier"), retry_policy=Policy(multiplier=value)
        )
        for value in (math.nan, math.inf, -1.0, 0.5, 100.5)
    },
    "backoff below zero": submit(
        invalid("retry_policy.initial_backoff"), retry_policy=Policy(initial_backoff=NEGATIVE)
    ),
    "backoff without end": submit(
        invalid("retry_policy.max_backoff"), retry_policy=Policy(max_backoff=HUGE)
    ),
}

GOOD = Spec(queue="bad", type="noop")
USED = Submit(request_id="used", tasks=[GOOD])


def claim(field: str, **fields: Any) -> Row:  # noqa: ANN401  # any field of a claim
    request = {"worker_id": "w", "queues": ["none"], "max_tasks": 1, **fields}
    return Row("WorkerService/Claim", worker_service_pb2.ClaimRequest(**request), invalid(field))


def with_page_token(method: str, request: Any) -> dict[str, Row]:  # noqa: ANN401  # any list's
    rows = {}
    for name, token in {"garbage": "garbage!", "in Unicode": "\u00e9", "other": "A" * 24}.items():
        asked = type(request)()
        asked.CopyFrom(request)
        asked.page_token = token
        rows[f"{method} page_token {name}"] = Row(method, asked, invalid("page_token"))
    return rows


CALLS = {
    "no tasks": Row("TaskService/Submit", Submit(), invalid("tasks")),
    "1,001 tasks": Row("TaskService/Submit", Submit(tasks=[GOOD] * 1_001), invalid("tasks")),
    "request_id of 129": Row(
        "TaskService/Submit", Submit(request_id="r" * 129, tasks=[GOOD]), invalid("request_id")
    ),
    "request_id with another body": Row(
        "TaskService/Submit",
        Submit(request_id="used", tasks=[GOOD, GOOD]),
        ("REQUEST_ID_REUSED", "request_id"),
    ),
    "retry_age below zero": Row(
        "TaskService/Submit",
        Submit(request_id="a", retry_age=NEGATIVE, tasks=[GOOD]),
        invalid("retry_age"),
    ),
    "retry_age past the window": Row(
        "TaskService/Submit",
        Submit(request_id="a", retry_age=Duration(seconds=571), tasks=[GOOD]),
        ("REQUEST_ID_EXPIRED", "retry_age"),
    ),
    "claim by nobody": claim("worker_id", worker_id=""),
    "claim by one of 201": claim("worker_id", worker_id="w" * 201),
    "claim from no queue": claim("queues", queues=[]),
    "claim from 65 queues": claim("queues", queues=["q"] * 65),
    "claim from a queue of no name": claim("queues", queues=["none", "a b"]),
    "claim of 0": claim("max_tasks", max_tasks=0),
    "claim of 1001": claim("max_tasks", max_tasks=1_001),
    "claim for no time": claim("lease", lease=Duration()),
    "claim for ever": claim("lease", lease=HUGE),
    "claim that waits below zero": claim("wait", wait=NEGATIVE),
    "claim that waits too long": claim("wait", wait=Duration(seconds=61)),
    "no reports": Row("WorkerService/Report", Report(), invalid("reports")),
    "1,001 reports": Row(
        "WorkerService/Report", Report(reports=[TaskReport()] * 1_001), invalid("reports")
    ),
    "10,001 leases": Row(
        "WorkerService/Heartbeat",
        worker_service_pb2.HeartbeatRequest(leases=[worker_service_pb2.HeldLease()] * 10_001),
        invalid("leases"),
    ),
    **{
        f"{method} of no such task {task_id[:3]!r}": Row(
            f"TaskService/{method}", request(task_id=task_id), ("NOT_FOUND", "task_id")
        )
        for method, request in {
            "GetTask": task_service_pb2.GetTaskRequest,
            "WaitTask": task_service_pb2.WaitTaskRequest,
            "CancelTask": task_service_pb2.CancelTaskRequest,
        }.items()
        for task_id in ("", "a\0", "\u00e9", "x" * 10_000)
    },
    "wait below zero": Row(
        "TaskService/WaitTask",
        task_service_pb2.WaitTaskRequest(task_id=FIRST, wait=NEGATIVE),
        invalid("wait"),
    ),
    "a read level that is none": Row(
        "TaskService/GetTask",
        task_service_pb2.GetTaskRequest(task_id=FIRST, read_level=NO_LEVEL),
        invalid("read_level"),
    ),
    "a state that is none": Row(
        "TaskService/ListTasks",
        task_service_pb2.ListTasksRequest(states=[NO_STATE]),
        invalid("states"),
    ),
    "a page of 1,001": Row(
        "TaskService/ListTasks",
        task_service_pb2.ListTasksRequest(page_size=1_001),
        invalid("page_size"),
    ),
    **with_page_token("TaskService/ListTasks", task_service_pb2.ListTasksRequest()),
    **with_page_token("QueueService/ListQueues", queue_service_pb2.ListQueuesRequest()),
    **with_page_token("QueueService/ListDeadLetters", queue_service_pb2.ListDeadLettersRequest()),
    **with_page_token("WorkerService/ListWorkers", worker_service_pb2.ListWorkersRequest()),
    **with_page_token("QueueService/PurgeQueue", queue_service_pb2.PurgeQueueRequest(queue="bad")),
    **with_page_token("QueueService/Redrive", queue_service_pb2.RedriveRequest(queue="bad")),
    **with_page_token(
        "QueueService/DeleteDeadLetters",
        queue_service_pb2.DeleteDeadLettersRequest(queue="bad"),
    ),
    "a queue that is not there is not deleted": Row(
        "QueueService/DeleteQueue",
        queue_service_pb2.DeleteQueueRequest(queue="typo"),
        ("NOT_FOUND", "queue"),
    ),
    "a queue that holds tasks is not deleted": Row(
        "QueueService/DeleteQueue",
        queue_service_pb2.DeleteQueueRequest(queue="bad"),
        ("QUEUE_IN_USE", "queue"),
    ),
    "a queue that must exist and does not": Row(
        "QueueService/ConfigureQueue",
        queue_service_pb2.ConfigureQueueRequest(queue="typo", must_exist=True),
        ("NOT_FOUND", "queue"),
    ),
    "settings that are not these": Row(
        "QueueService/ConfigureQueue",
        queue_service_pb2.ConfigureQueueRequest(queue="bad", etag="x" * 10_000),
        ("SETTINGS_CHANGED", "etag"),
    ),
    "a mask of what there is not": Row(
        "QueueService/ConfigureQueue",
        queue_service_pb2.ConfigureQueueRequest(
            queue="bad", update_mask=FieldMask(paths=["x" * 10_000])
        ),
        invalid("update_mask"),
    ),
    "stats of no such queue": Row(
        "QueueService/GetQueueStats",
        queue_service_pb2.GetQueueStatsRequest(queue="x" * 5_000),
        ("NOT_FOUND", "queue"),
    ),
    "an ordering that is none": Row(
        "QueueService/ConfigureQueue",
        queue_service_pb2.ConfigureQueueRequest(
            queue="bad", settings=queue_service_pb2.QueueSettings(ordering=NO_ORDERING)
        ),
        invalid("settings.ordering"),
    ),
    "aging below zero": Row(
        "QueueService/ConfigureQueue",
        queue_service_pb2.ConfigureQueueRequest(
            queue="bad", settings=queue_service_pb2.QueueSettings(aging=NEGATIVE)
        ),
        invalid("settings.aging"),
    ),
    "redrive of nothing": Row(
        "QueueService/Redrive", queue_service_pb2.RedriveRequest(), invalid("task_ids")
    ),
    "redrive of 1,001": Row(
        "QueueService/Redrive",
        queue_service_pb2.RedriveRequest(task_ids=["a"] * 1_001),
        invalid("task_ids"),
    ),
    "delete of both": Row(
        "QueueService/DeleteDeadLetters",
        queue_service_pb2.DeleteDeadLettersRequest(task_ids=["a"], queue="bad"),
        invalid("queue"),
    ),
    "purge of 1,001": Row(
        "QueueService/PurgeQueue",
        queue_service_pb2.PurgeQueueRequest(queue="bad", max_tasks=1_001),
        invalid("max_tasks"),
    ),
    "leadership for a stranger": Row(
        "ClusterService/TransferLeadership",
        cluster_service_pb2.TransferLeadershipRequest(target_node_id="n9" * 5_000),
        invalid("target_node_id"),
    ),
    "the place of a stranger": Row(
        "ClusterService/ReplaceNode",
        cluster_service_pb2.ReplaceNodeRequest(node_id="n9" * 5_000),
        invalid("node_id"),
    ),
    # Items that are not counted by parsing them.
    "a million empty tasks": Row("TaskService/Submit", b"\x1a\x00" * MIB, invalid("tasks")),
    "a million empty reports": Row("WorkerService/Report", b"\x12\x00" * MIB, invalid("reports")),
    "a million empty leases": Row("WorkerService/Heartbeat", b"\x12\x00" * MIB, invalid("leases")),
    "a task of 70,000 labels": Row(
        "TaskService/Submit",
        Submit(tasks=[Spec(queue="bad", type="noop", labels={str(n): "" for n in range(70_000)})]),
        invalid("tasks.labels"),
    ),
    "60,000 states": Row(
        "TaskService/ListTasks",
        task_service_pb2.ListTasksRequest(states=[task_pb2.TASK_STATE_PENDING] * 60_000),
        invalid("states"),
    ),
    "a claim of 70 KB": Row(
        "WorkerService/Claim",
        worker_service_pb2.ClaimRequest(worker_id="w" * 70_000),
        ("PAYLOAD_TOO_LARGE", ""),
    ),
    **{f"garbage to {method}": Row(method, b"\xff\xff\xff", invalid("")) for method in REPLIES},
}


def reports(token: int) -> dict[str, Row]:
    """Reports on the task that is held under ``token``, none of which may be recorded."""

    def of(told: Told, **fields: Any) -> Row:  # noqa: ANN401  # any field of a report
        report = TaskReport(**{"task_id": HELD, "token": token, **fields})
        return Row("WorkerService/Report", Report(worker_id="w", reports=[report]), told)

    return {
        **{
            f"token {wrong}": of(("STATUS_LEASE_LOST", ""), token=wrong, complete=Completion())
            for wrong in (0, 1, token - 1, token + 1, 2**64 - 1)
        },
        "report on no task": of(("STATUS_NOT_FOUND", ""), task_id="x" * 9_000),
        "no outcome": of(invalid("outcome")),
        "result over 10 MiB": of(
            ("PAYLOAD_TOO_LARGE", "complete.result"),
            complete=Completion(result=bytes(10 * MIB + 1)),
        ),
        "101 children": of(invalid("complete.submit"), complete=Completion(submit=[GOOD] * 101)),
        "a child of no type": of(
            invalid("complete.submit[1].type"),
            complete=Completion(submit=[GOOD, Spec(queue="bad")]),
        ),
        "retry_after below zero": of(
            invalid("fail.retry_after"), fail=worker_service_pb2.Failure(retry_after=NEGATIVE)
        ),
    }


async def send(channel: aio.Channel, method: str, request: Message | bytes) -> Any:  # noqa: ANN401  # any method's reply
    call: Any = channel.unary_unary(f"/tq.v1.{method}")
    raw = request if isinstance(request, bytes) else request.SerializeToString()
    return REPLIES[method].FromString(await call(raw, timeout=PATIENCE_S))


async def told(channel: aio.Channel, row: Row) -> Told:
    """What the broker answers: by the call's status, or by the one item of its answer."""
    try:
        reply = await send(channel, row.method, row.request)
    except aio.AioRpcError as error:
        return told_by_status(error)
    [result] = getattr(reply, "results", None) or [None]
    if result is None or (row.method.endswith("Submit") and not result.HasField("error")):
        return "OK", ""
    if not result.HasField("error"):
        return worker_service_pb2.ReportResult.Status.Name(result.status), ""
    reason = errors_pb2.ErrorReason.Name(result.error.reason).removeprefix("ERROR_REASON_")
    assert result.error.metadata["field"] == result.error.field
    return reason, result.error.field


async def told_by_a_leader(channel: aio.Channel, row: Row) -> Told:
    """As `told`, again if the leader changed meanwhile: no row asks for that."""
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await told(channel, row))[0] == "OUTCOME_UNKNOWN":
            pass
    return answer


def told_by_status(error: aio.AioRpcError) -> Told:
    trailing = dict(error.trailing_metadata() or ())
    details = trailing.get("grpc-status-details-bin", b"")
    assert isinstance(details, bytes)
    info = error_details_pb2.ErrorInfo()
    if not any(d.Unpack(info) for d in status_pb2.Status.FromString(details).details):
        return error.code().name, error.details() or ""
    assert info.domain == "tq"
    assert error.code() is not grpc.StatusCode.INTERNAL
    return info.reason, info.metadata["field"]


async def test_bad_input_is_told_by_reason_and_field_and_nothing_is_lost(
    cluster: ProcessCluster,
) -> None:
    leader = await cluster.await_leader(within_s=PATIENCE_S)
    [follower, *_] = [name for name in cluster.brokers if name != leader.node_id]
    channel = cluster.channel(follower)
    good = [Spec(queue="good", type="noop", task_id=FIRST, payload=b"kept")]
    await send(channel, "TaskService/Submit", Submit(tasks=good))
    held = [Spec(queue="held", type="noop", task_id=HELD)]
    await send(channel, "TaskService/Submit", Submit(tasks=held))
    await send(channel, "TaskService/Submit", USED)
    token = (await claimed(channel, "held")).token

    rows = SPECS | CALLS | reports(token)
    seen = {name: await told_by_a_leader(channel, row) for name, row in rows.items()}

    assert seen == {name: row.told for name, row in rows.items()}
    task = await claimed(channel, "good")
    assert (task.spec.task_id, task.spec.payload, task.attempt) == (FIRST, b"kept", 1)
    done = [
        TaskReport(task_id=FIRST, token=task.token, complete=Completion(result=b"done")),
        TaskReport(task_id=HELD, token=token, complete=Completion()),
    ]
    reply = await send(channel, "WorkerService/Report", Report(worker_id="w", reports=done))
    assert {result.state for result in reply.results} == {task_pb2.TASK_STATE_COMPLETED}
    stats = await send(
        channel, "QueueService/GetQueueStats", queue_service_pb2.GetQueueStatsRequest(queue="bad")
    )
    assert stats.stats.totals.submitted == 1, "only the one whose request id was used again"
    assert all(broker.exited() is None for broker in cluster.brokers.values())


async def claimed(channel: aio.Channel, queue: str) -> worker_service_pb2.ClaimedTask:
    request = worker_service_pb2.ClaimRequest(
        worker_id="w", queues=[queue], max_tasks=1, lease=Duration(seconds=60)
    )
    reply = await send(channel, "WorkerService/Claim", request)
    [task] = reply.tasks
    assert isinstance(task, worker_service_pb2.ClaimedTask)
    return task
