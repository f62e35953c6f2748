"""The largest legal requests of every RPC: each field at its maximum, in several shapes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.sweep.ground import (
    ERROR_BYTES,
    LABELS,
    MIB,
    QUEUES,
    TYPES,
    WIDE,
    Ground,
    wide_spec,
)
from tq.v1 import cluster_service_pb2 as cluster
from tq.v1 import conversation_service_pb2 as conversation
from tq.v1 import queue_service_pb2 as queues
from tq.v1 import task_pb2
from tq.v1 import task_service_pb2 as tasks
from tq.v1 import worker_service_pb2 as workers

TASKS = "/tq.v1.TaskService/"
WORKERS = "/tq.v1.WorkerService/"
QUEUES_OF = "/tq.v1.QueueService/"
CLUSTER = "/tq.v1.ClusterService/"
CONVERSATION = "/tq.v1.ConversationService/"
HEALTH = "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/"

SUBMIT_BYTES_MAX = 10 * MIB
TOGETHER = 8

Made = Awaitable[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One way to send the largest legal request of an RPC."""

    path: str
    name: str
    make: Callable[[Ground], Made]
    """Called once for each call, to make what the call uses up."""
    together: int = TOGETHER
    """How many are sent at once, after one alone."""
    moves_leader: bool = False
    """Whether the request asks for a change of leader."""


SHAPES: list[Shape] = []


def _shape(
    path: str, name: str, *, together: int = TOGETHER
) -> Callable[[Callable[[Ground], Made]], Callable[[Ground], Made]]:
    def add(make: Callable[[Ground], Made]) -> Callable[[Ground], Made]:
        SHAPES.append(Shape(path=path, name=name, make=make, together=together))
        return make

    return add


def _fixed(path: str, name: str, request: Message, *, together: int = TOGETHER) -> None:
    async def make(_ground: Ground) -> Message:
        return request

    SHAPES.append(Shape(path=path, name=name, make=make, together=together))


# -------------------------------------------------------------------- TaskService


def _submit(ground: Ground, specs: list[task_pb2.TaskSpec]) -> tasks.SubmitRequest:
    return tasks.SubmitRequest(request_id=ground.fresh("sweep"), tasks=specs)


@_shape(TASKS + "Submit", "1,000 small tasks")
async def _(ground: Ground) -> Message:
    return _submit(ground, [task_pb2.TaskSpec(queue="swept", type="t")] * 1_000)


@_shape(TASKS + "Submit", "400 of a task each", together=400)
async def _(ground: Ground) -> Message:
    return _submit(ground, [task_pb2.TaskSpec(queue="swept", type="t")])


@_shape(TASKS + "Submit", "every field at its maximum")
async def _(ground: Ground) -> Message:
    request = _submit(ground, [])
    one = wide_spec(WIDE, ground.fresh("wide").ljust(200, "i")).ByteSize() + 4
    for _n in range(min(1_000, SUBMIT_BYTES_MAX // one)):
        request.tasks.append(wide_spec(WIDE, ground.fresh("wide").ljust(200, "i")))
    return request


@_shape(TASKS + "Submit", "one payload of 10 MiB")
async def _(ground: Ground) -> Message:
    payload = bytes(ground.limits.payload_bytes_max)
    return _submit(ground, [task_pb2.TaskSpec(queue="swept", type="t", payload=payload)])


@_shape(TASKS + "Submit", "payloads of 64 KiB and a byte")
async def _(ground: Ground) -> Message:
    payload = bytes((64 << 10) + 1)
    spec = task_pb2.TaskSpec(queue="swept", type="t", payload=payload)
    return _submit(ground, [spec] * (SUBMIT_BYTES_MAX // spec.ByteSize() - 1))


@_shape(TASKS + "Submit", "1,000 new queues", together=2)
async def _(ground: Ground) -> Message:
    specs = [task_pb2.TaskSpec(queue=ground.fresh("new"), type="t") for _n in range(1_000)]
    return _submit(ground, specs)


@_shape(TASKS + "Submit", "1,000 ids that exist")
async def _(ground: Ground) -> Message:
    ids = [lease.task_id for lease in ground.held[:1_000]]
    return _submit(ground, [task_pb2.TaskSpec(queue="swept", type="t", task_id=i) for i in ids])


@_shape(TASKS + "Submit", "1,000 faulty tasks")
async def _(ground: Ground) -> Message:
    faulty = wide_spec(WIDE)
    faulty.retry_policy.multiplier = 101
    return _submit(ground, [faulty] * (SUBMIT_BYTES_MAX // (faulty.ByteSize() + 4)))


@_shape(TASKS + "Submit", "10 tasks that wait for 1,000 each", together=2)
async def _(ground: Ground) -> Message:
    on = [task_pb2.Dependency(task_id=lease.task_id) for lease in ground.held[:1_000]]
    return _submit(ground, [task_pb2.TaskSpec(queue="swept", type="t", depends_on=on)] * 10)


def _together(ground: Ground, specs: list[task_pb2.TaskSpec]) -> tasks.SubmitTogetherRequest:
    return tasks.SubmitTogetherRequest(request_id=ground.fresh("sweep"), tasks=specs)


def _waiting(*items: int) -> task_pb2.TaskSpec:
    on = [task_pb2.Dependency(item=item) for item in items]
    return task_pb2.TaskSpec(queue="swept", type="t", depends_on=on)


@_shape(TASKS + "SubmitTogether", "1,000 tasks, of which 990 wait for 10 each", together=2)
async def _(ground: Ground) -> Message:
    specs = [_waiting(*range(max(0, item - 10), item)) for item in range(1_000)]
    return _together(ground, specs)


@_shape(TASKS + "SubmitTogether", "a circle of 1,000 tasks")
async def _(ground: Ground) -> Message:
    return _together(ground, [_waiting((item + 1) % 1_000) for item in range(1_000)])


@_shape(TASKS + "SubmitTogether", "every field at its maximum", together=2)
async def _(ground: Ground) -> Message:
    request = _together(ground, [])
    one = wide_spec(WIDE, ground.fresh("wide").ljust(200, "i")).ByteSize() + 4
    for _n in range(min(1_000, SUBMIT_BYTES_MAX // one)):
        request.tasks.append(wide_spec(WIDE, ground.fresh("wide").ljust(200, "i")))
    return request


_fixed(
    TASKS + "GetTask", "payload and result of 10 MiB", tasks.GetTaskRequest(task_id="giant-done")
)
_fixed(
    TASKS + "GetTask",
    "payload and result of 10 MiB, LOCAL",
    tasks.GetTaskRequest(task_id="giant-done", read_level=tasks.READ_LEVEL_LOCAL),
)
_fixed(
    TASKS + "GetTask",
    "a dead letter of 50 attempts",
    tasks.GetTaskRequest(task_id="dead-0".ljust(200, "d")),
)
_fixed(
    TASKS + "GetTask",
    "400 small ones",
    tasks.GetTaskRequest(task_id="giant-pending", omit_payload=True),
    together=400,
)
_fixed(TASKS + "GetTask", "an unknown id", tasks.GetTaskRequest(task_id="x" * 200))

_ALL_STATES = [state for state in task_pb2.TaskState.values() if state]
_fixed(TASKS + "ListTasks", "a type that no task has", tasks.ListTasksRequest(type="none"))
_fixed(
    TASKS + "ListTasks",
    "a type that no task has, LOCAL",
    tasks.ListTasksRequest(type="none", read_level=tasks.READ_LEVEL_LOCAL),
)
_fixed(
    TASKS + "ListTasks",
    "a state that no task of the queue has",
    tasks.ListTasksRequest(queue="q0", states=[task_pb2.TASK_STATE_BLOCKED], type="none"),
)
_fixed(
    TASKS + "ListTasks",
    "every state of a queue, labels that differ last",
    tasks.ListTasksRequest(
        queue=WIDE, states=_ALL_STATES, labels={**LABELS, "31".rjust(64, "k"): "w"}
    ),
)
_fixed(
    TASKS + "ListTasks",
    "a page of 1,000 wide tasks",
    tasks.ListTasksRequest(queue=WIDE, page_size=1_000),
)
_fixed(
    TASKS + "ListTasks",
    "a page of 1,000 dead letters with histories",
    tasks.ListTasksRequest(queue="dead", page_size=1_000),
)
_fixed(TASKS + "ListTasks", "a page of 1,000", tasks.ListTasksRequest(page_size=1_000))

_AT_ONCE = tasks.WaitTaskRequest(task_id="giant-done")
_fixed(TASKS + "WaitTask", "one that is done, of 20 MiB", _AT_ONCE)
_WAITING = tasks.WaitTaskRequest(task_id="giant-pending")
_WAITING.wait.FromSeconds(1)
_fixed(TASKS + "WaitTask", "one of 10 MiB for a second", _WAITING)
_SMALL_WAIT = tasks.WaitTaskRequest(task_id="giant-pending", omit_payload=True)
_SMALL_WAIT.wait.FromSeconds(1)
_fixed(TASKS + "WaitTask", "400 for a second", _SMALL_WAIT, together=400)


@_shape(TASKS + "CancelTask", "a waiting task of every field at its maximum")
async def _(ground: Ground) -> Message:
    spec = wide_spec("cancelled", ground.fresh("cancel").ljust(200, "c"))
    await ground.leader.tasks.Submit(tasks.SubmitRequest(tasks=[spec]))
    return tasks.CancelTaskRequest(task_id=spec.task_id, request_id=ground.fresh("sweep"))


@_shape(TASKS + "CancelTask", "a running task")
async def _(ground: Ground) -> Message:
    [held] = await ground.leased(1)
    return tasks.CancelTaskRequest(task_id=held.task_id, request_id=ground.fresh("sweep"))


# -------------------------------------------------------------------- WorkerService


def _claim(ground: Ground, names: list[str], **fields: object) -> workers.ClaimRequest:
    request = workers.ClaimRequest(
        worker_id="sweeper".ljust(200, "s"),
        queues=names,
        max_tasks=1_000,
        request_id=ground.fresh("sweep"),
        **fields,  # type: ignore[arg-type]  # a protobuf message checks them itself
    )
    request.lease.FromSeconds(3_600)
    return request


_SPREAD = [f"q{n}" for n in range(QUEUES)]
_NO_TYPES = [f"{n:02}".ljust(128, "n") for n in range(64)]


@_shape(WORKERS + "Claim", "1,000 of 64 queues with aging")
async def _(ground: Ground) -> Message:
    return _claim(ground, _SPREAD)


@_shape(WORKERS + "Claim", "64 types that no task has, of 64 queues")
async def _(ground: Ground) -> Message:
    return _claim(ground, _SPREAD, types=_NO_TYPES)


@_shape(WORKERS + "Claim", "all but 64 types, of 64 queues")
async def _(ground: Ground) -> Message:
    return _claim(ground, _SPREAD, except_types=[f"t{n}" for n in range(TYPES)])


@_shape(WORKERS + "Claim", "64 types and all but 64, of 64 queues")
async def _(ground: Ground) -> Message:
    return _claim(ground, _SPREAD, types=["t1", *_NO_TYPES[1:]], except_types=_NO_TYPES)


@_shape(WORKERS + "Claim", "wide tasks, up to the limit of a reply")
async def _(ground: Ground) -> Message:
    specs = [wide_spec("widest") for _n in range(900)]
    await ground.leader.tasks.Submit(_submit(ground, specs), timeout=30)
    return _claim(ground, ["widest"])


@_shape(WORKERS + "Claim", "payloads of 1 MiB, up to the limit of a reply", together=2)
async def _(ground: Ground) -> Message:
    name = ground.fresh("large")
    specs = [task_pb2.TaskSpec(queue=name, type="t", payload=bytes(MIB - 4_096))] * 10
    await ground.leader.tasks.Submit(_submit(ground, specs), timeout=30)
    return _claim(ground, [name])


@_shape(WORKERS + "Claim", "400 that wait a second for a type", together=400)
async def _(ground: Ground) -> Message:
    request = _claim(ground, ["probe"], types=["none"])
    request.wait.FromSeconds(1)
    return request


@_shape(WORKERS + "Heartbeat", "10,000 leases that stand")
async def _(ground: Ground) -> Message:
    return workers.HeartbeatRequest(worker_id=ground.worker_id, leases=ground.held[:10_000])


_fixed(
    WORKERS + "Heartbeat",
    "10,000 leases that are none",
    workers.HeartbeatRequest(
        worker_id="w" * 200,
        leases=[
            workers.HeldLease(task_id=f"{n}".rjust(200, "x"), token=(1 << 53) - 1 - n)
            for n in range(10_000)
        ],
    ),
)


def _reports(
    held: list[workers.HeldLease], outcome: workers.TaskReport, worker_id: str
) -> workers.ReportRequest:
    request = workers.ReportRequest(worker_id=worker_id)
    for lease in held:
        report = request.reports.add()
        report.CopyFrom(outcome)
        report.task_id, report.token = lease.task_id, lease.token
    return request


@_shape(WORKERS + "Report", "1,000 completions")
async def _(ground: Ground) -> Message:
    completion = workers.Completion(result=bytes(200))
    outcome = workers.TaskReport(complete=completion)
    return _reports(await ground.leased(1_000), outcome, ground.worker_id)


@_shape(WORKERS + "Report", "1,000 completions with 10 children each", together=2)
async def _(ground: Ground) -> Message:
    children = [task_pb2.TaskSpec(queue="children", type="t")] * 10
    outcome = workers.TaskReport(complete=workers.Completion(submit=children))
    return _reports(await ground.leased(1_000), outcome, ground.worker_id)


@_shape(WORKERS + "Report", "1,000 completions with 100 children each", together=2)
async def _(ground: Ground) -> Message:
    children = [task_pb2.TaskSpec(queue="children", type="t")] * 100
    outcome = workers.TaskReport(complete=workers.Completion(submit=children))
    return _reports(await ground.leased(1_000), outcome, ground.worker_id)


@_shape(WORKERS + "Report", "1,000 completions that 10 tasks wait for each", together=2)
async def _(ground: Ground) -> Message:
    held = await ground.leased(1_000)
    for begin in range(0, 1_000, 100):
        specs = [
            task_pb2.TaskSpec(
                queue="released", type="t", depends_on=[task_pb2.Dependency(task_id=lease.task_id)]
            )
            for lease in held[begin : begin + 100]
            for _n in range(10)
        ]
        await ground.leader.tasks.Submit(_submit(ground, specs), timeout=30)
    outcome = workers.TaskReport(complete=workers.Completion())
    return _reports(held, outcome, ground.worker_id)


@_shape(WORKERS + "Report", "10 wide completions with 90 wide children each", together=2)
async def _(ground: Ground) -> Message:
    children = [wide_spec("children")] * 90
    outcome = workers.TaskReport(complete=workers.Completion(submit=children))
    return _reports(await ground.leased(10), outcome, ground.worker_id)


@_shape(WORKERS + "Report", "1,000 failures with errors at their limit")
async def _(ground: Ground) -> Message:
    outcome = workers.TaskReport(fail=workers.Failure(error="e" * ERROR_BYTES))
    return _reports(await ground.leased(1_000), outcome, ground.worker_id)


@_shape(WORKERS + "Report", "one result of 10 MiB")
async def _(ground: Ground) -> Message:
    completion = workers.Completion(result=bytes(ground.limits.payload_bytes_max))
    outcome = workers.TaskReport(complete=completion)
    return _reports(await ground.leased(1), outcome, ground.worker_id)


@_shape(WORKERS + "Report", "an error of 9 MiB, cut to its limit")
async def _(ground: Ground) -> Message:
    outcome = workers.TaskReport(fail=workers.Failure(error="e" * (9 * MIB)))
    return _reports(await ground.leased(1), outcome, ground.worker_id)


@_shape(WORKERS + "Report", "1,000 leases that are lost")
async def _(ground: Ground) -> Message:
    lost = [workers.HeldLease(task_id=lease.task_id, token=1) for lease in ground.held[:1_000]]
    return _reports(lost, workers.TaskReport(release=workers.Release()), ground.worker_id)


_fixed(WORKERS + "ListWorkers", "a page of 1,000", workers.ListWorkersRequest(page_size=1_000))

# -------------------------------------------------------------------- QueueService

_fixed(
    QUEUES_OF + "GetQueueStats",
    "a queue of 256 priorities",
    queues.GetQueueStatsRequest(queue="q0"),
)
_fixed(
    QUEUES_OF + "GetQueueStats", "an unknown queue", queues.GetQueueStatsRequest(queue="x" * 128)
)
_fixed(QUEUES_OF + "ListQueues", "a page of 1,000", queues.ListQueuesRequest(page_size=1_000))
_fixed(
    QUEUES_OF + "ListQueues",
    "a page of 1,000, LOCAL",
    queues.ListQueuesRequest(page_size=1_000, read_level=tasks.READ_LEVEL_LOCAL),
)


@_shape(QUEUES_OF + "ConfigureQueue", "a new queue")
async def _(ground: Ground) -> Message:
    settings = queues.QueueSettings(ordering=queues.QueueSettings.ORDERING_AGING, paused=True)
    settings.aging.FromSeconds(86_400)
    return queues.ConfigureQueueRequest(
        queue=ground.fresh("set").ljust(128, "s"), settings=settings
    )


_fixed(
    QUEUES_OF + "DeleteQueue", "a queue that holds tasks", queues.DeleteQueueRequest(queue="dead")
)
_fixed(
    QUEUES_OF + "ListDeadLetters",
    "a page of 1,000 with histories",
    queues.ListDeadLettersRequest(queue="dead", page_size=1_000),
)
_fixed(
    QUEUES_OF + "ListDeadLetters", "a page of 1,000", queues.ListDeadLettersRequest(page_size=1_000)
)


@_shape(QUEUES_OF + "Redrive", "1,000 of a queue", together=2)
async def _(ground: Ground) -> Message:
    name = await ground.dead_letters(1_000)
    return queues.RedriveRequest(queue=name, max_tasks=1_000, request_id=ground.fresh("sweep"))


@_shape(QUEUES_OF + "Redrive", "1,000 ids that are no dead letters")
async def _(ground: Ground) -> Message:
    ids = [lease.task_id for lease in ground.held[:1_000]]
    return queues.RedriveRequest(task_ids=ids, request_id=ground.fresh("sweep"))


@_shape(QUEUES_OF + "Redrive", "1,000 that its filter passes over", together=2)
async def _(ground: Ground) -> Message:
    name = await ground.dead_letters(1_000)
    return queues.RedriveRequest(
        queue=name,
        filter=queues.DeadLetterFilter(error="no such error"),
        request_id=ground.fresh("sweep"),
    )


@_shape(QUEUES_OF + "ListDeadLetters", "1,000 that its filter passes over", together=2)
async def _(ground: Ground) -> Message:
    name = await ground.dead_letters(1_000)
    return queues.ListDeadLettersRequest(
        queue=name, filter=queues.DeadLetterFilter(error="no such error"), page_size=1_000
    )


@_shape(QUEUES_OF + "DeleteDeadLetters", "1,000 of a queue", together=2)
async def _(ground: Ground) -> Message:
    name = await ground.dead_letters(1_000)
    return queues.DeleteDeadLettersRequest(
        queue=name, max_tasks=1_000, request_id=ground.fresh("sweep")
    )


@_shape(QUEUES_OF + "DeleteDeadLetters", "1,000 ids that are none")
async def _(ground: Ground) -> Message:
    ids = [f"{n}".rjust(200, "x") for n in range(1_000)]
    return queues.DeleteDeadLettersRequest(task_ids=ids, request_id=ground.fresh("sweep"))


@_shape(QUEUES_OF + "PurgeQueue", "1,000 ready tasks")
async def _(ground: Ground) -> Message:
    name = await ground.waiting(1_000)
    return queues.PurgeQueueRequest(queue=name, max_tasks=1_000, request_id=ground.fresh("sweep"))


@_shape(QUEUES_OF + "PurgeQueue", "1,000 scheduled tasks")
async def _(ground: Ground) -> Message:
    name = await ground.waiting(1_000, scheduled=True)
    return queues.PurgeQueueRequest(queue=name, max_tasks=1_000, request_id=ground.fresh("sweep"))


@_shape(QUEUES_OF + "PurgeQueue", "10,000 ready tasks at once", together=2)
async def _(ground: Ground) -> Message:
    name = await ground.waiting(10_000)
    return queues.PurgeQueueRequest(queue=name, at_once=True, request_id=ground.fresh("sweep"))


@_shape(QUEUES_OF + "PurgeQueue", "10,000 scheduled tasks at once")
async def _(ground: Ground) -> Message:
    name = await ground.waiting(10_000, scheduled=True)
    return queues.PurgeQueueRequest(queue=name, at_once=True, request_id=ground.fresh("sweep"))


# -------------------------------------------------------------------- ClusterService

_fixed(CLUSTER + "GetServerInfo", "plain", cluster.GetServerInfoRequest(), together=64)
_fixed(CLUSTER + "GetClusterStatus", "plain", cluster.GetClusterStatusRequest(), together=64)
_fixed(CLUSTER + "GetNodeStatus", "plain", cluster.GetNodeStatusRequest(), together=64)
_fixed(CLUSTER + "VerifyState", "a pass at full speed", cluster.VerifyStateRequest(start=True))
_fixed(
    CLUSTER + "ReplaceNode",
    "a member that is well",
    cluster.ReplaceNodeRequest(node_id="n1", force=True),
)


@_shape(CLUSTER + "TransferLeadership", "to who leads already")
async def _(ground: Ground) -> Message:
    return cluster.TransferLeadershipRequest(target_node_id=ground.leader_id)


async def _to_a_follower(ground: Ground) -> Message:
    return cluster.TransferLeadershipRequest(target_node_id=ground.follower_id)


SHAPES.append(
    Shape(
        path=CLUSTER + "TransferLeadership",
        name="to a follower",
        make=_to_a_follower,
        moves_leader=True,
    )
)
_fixed(CLUSTER + "Backup", "the whole state", cluster.BackupRequest(), together=2)
_fixed(
    CLUSTER + "Backup",
    "400 of an entry that does not exist",
    cluster.BackupRequest(min_applied_index=1 << 63),
    together=400,
)


@_shape(CLUSTER + "Backup", "400 of an entry that may come", together=400)
async def _(ground: Ground) -> Message:
    status = await ground.leader.cluster.GetNodeStatus(cluster.GetNodeStatusRequest())
    return cluster.BackupRequest(min_applied_index=status.node.last_index + 1)


# -------------------------------------------------------------------- conversations


def _submits(ground: Ground, specs: list[task_pb2.TaskSpec]) -> conversation.ConverseRequest:
    return conversation.ConverseRequest(
        calls=[
            conversation.ConverseCall(call_id=number, submit=_submit(ground, specs))
            for number in range(1, 65)
        ]
    )


@_shape(CONVERSATION + "Converse", "64 submits of a task of 3.9 KB")
async def _(ground: Ground) -> Message:
    return _submits(ground, [task_pb2.TaskSpec(queue="swept", type="t", payload=bytes(3_900))])


@_shape(CONVERSATION + "Converse", "64 submits of 300 tasks")
async def _(ground: Ground) -> Message:
    return _submits(ground, [task_pb2.TaskSpec(queue="swept", type="t")] * 300)


# -------------------------------------------------------------------- not ours

_fixed(HEALTH + "Check", "one service", health_pb2.HealthCheckRequest(), together=64)
_HEALTH_LIST = health_pb2.HealthListRequest()  # type: ignore[attr-defined]  # newer than its types
_fixed(HEALTH + "List", "every service", _HEALTH_LIST, together=64)
_fixed(HEALTH + "Watch", "64 watchers", health_pb2.HealthCheckRequest(), together=64)
_fixed(
    REFLECTION + "ServerReflectionInfo",
    "a file that all others need",
    reflection_pb2.ServerReflectionRequest(file_containing_symbol="tq.v1.QueueService"),
)
