"""A fake broker in this process: the public API over a dictionary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tq.v1 import cluster_service_pb2 as cluster_pb
from tq.v1 import cluster_service_pb2_grpc as cluster_grpc
from tq.v1 import errors_pb2, task_pb2
from tq.v1 import queue_service_pb2 as queue_pb
from tq.v1 import queue_service_pb2_grpc as queue_grpc
from tq.v1 import task_service_pb2 as task_service_pb
from tq.v1 import task_service_pb2_grpc as task_grpc
from tq.v1 import worker_service_pb2 as worker_pb
from tq.v1 import worker_service_pb2_grpc as worker_grpc
from tq.v1.task_service_pb2 import ReadLevel

PRIORITY_MAX = 255


def refuse(
    context: grpc.ServicerContext, status: grpc.StatusCode, reason: str, message: str, **facts: str
) -> NoReturn:
    """End the call as a broker does: a status with ErrorInfo."""
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(domain="tq", reason=reason, metadata=facts))
    proto = status_pb2.Status(code=status.value[0], message=message, details=[info])
    context.abort_with_status(rpc_status.to_status(proto))
    raise AssertionError("abort raises")


class FakeBroker(
    task_grpc.TaskServiceServicer,
    queue_grpc.QueueServiceServicer,
    cluster_grpc.ClusterServiceServicer,
    worker_grpc.WorkerServiceServicer,
):
    """One node; `before` may refuse any call before it is handled."""

    def __init__(self) -> None:
        self.tasks: dict[str, task_pb2.Task] = {}
        self.settings: dict[str, queue_pb.QueueSettings] = {}
        self.submits: list[task_service_pb.SubmitRequest] = []
        self.needed: dict[str, str] = {}
        """Why dead letters are neither deleted nor, without force, redriven: HAS_DEPENDENTS."""
        self.redrives: list[queue_pb.RedriveRequest] = []
        self.purges = 0
        self.is_old = False
        """Whether it knows no purge at once."""
        self.purging = 0
        """How many tasks a purge at once leaves for later."""
        self.masks: list[list[str]] = []
        """The field mask of each ConfigureQueue."""
        self.submitted_a_reading = 0
        self.readings = 0
        self.read_level = ReadLevel.READ_LEVEL_UNSPECIFIED
        self.workers = worker_pb.ListWorkersResponse(leader_id="n2")
        self.waits_until_finished = 1
        self.cluster = cluster_pb.GetClusterStatusResponse()
        self.info = cluster_pb.GetServerInfoResponse()
        self.backup: list[cluster_pb.BackupResponse] = []
        self.verified = [cluster_pb.VerifyStateResponse()]
        self.verifies: list[bool] = []
        self.backups: list[cluster_pb.BackupRequest] = []
        self.before: Callable[[grpc.ServicerContext], None] = lambda context: None

    def SubmitTogether(
        self,
        request: task_service_pb.SubmitTogetherRequest,
        context: grpc.ServicerContext,
    ) -> task_service_pb.SubmitTogetherResponse:
        raise NotImplementedError

    def Submit(
        self, request: task_service_pb.SubmitRequest, context: grpc.ServicerContext
    ) -> task_service_pb.SubmitResponse:
        kept = task_service_pb.SubmitRequest()
        kept.CopyFrom(request)
        self.submits.append(kept)
        self.before(context)
        response = task_service_pb.SubmitResponse()
        for spec in request.tasks:
            result = response.results.add()
            if spec.task_id in self.tasks:
                result.error.reason = errors_pb2.ERROR_REASON_TASK_EXISTS
                result.error.message = f"a task {spec.task_id} exists"
                result.error.field = "task_id"
                continue
            task_id = spec.task_id or f"{request.request_id}.0"
            task = task_pb2.Task(spec=spec, state=task_pb2.TASK_STATE_PENDING)
            task.spec.task_id = task_id
            task.submitted_at.GetCurrentTime()
            self.tasks[task_id] = task
            result.task.task_id = task_id
            result.task.state = task.state
        return response

    def GetTask(
        self, request: task_service_pb.GetTaskRequest, context: grpc.ServicerContext
    ) -> task_service_pb.GetTaskResponse:
        self.before(context)
        return task_service_pb.GetTaskResponse(task=self._task(request.task_id, context))

    def ListTasks(
        self, request: task_service_pb.ListTasksRequest, context: grpc.ServicerContext
    ) -> task_service_pb.ListTasksResponse:
        """Answer in pages of two, every second one empty, as a scan with a budget may."""
        self.before(context)
        matching = [
            task
            for task in reversed(self.tasks.values())
            if (not request.queue or task.spec.queue == request.queue)
            and (not request.states or task.state in request.states)
            and all(task.spec.labels[key] == value for key, value in request.labels.items())
        ]
        token = request.page_token or "0"
        if not token.endswith("+"):
            return task_service_pb.ListTasksResponse(next_page_token=f"{token}+")
        start = int(token.removesuffix("+"))
        page = matching[start : start + min(2, request.page_size)]
        token = str(start + len(page)) if start + len(page) < len(matching) else ""
        return task_service_pb.ListTasksResponse(tasks=page, next_page_token=token)

    def WaitTask(
        self, request: task_service_pb.WaitTaskRequest, context: grpc.ServicerContext
    ) -> task_service_pb.WaitTaskResponse:
        task = self._task(request.task_id, context)
        self.waits_until_finished -= 1
        if self.waits_until_finished > 0:
            return task_service_pb.WaitTaskResponse(task=task)
        if task.spec.type == "fail":
            task.state, task.last_error = task_pb2.TASK_STATE_FAILED, "no such image"
        else:
            task.state, task.result = task_pb2.TASK_STATE_COMPLETED, task.spec.payload
        return task_service_pb.WaitTaskResponse(task=task, finished=True)

    def CancelTask(
        self, request: task_service_pb.CancelTaskRequest, context: grpc.ServicerContext
    ) -> task_service_pb.CancelTaskResponse:
        self.before(context)
        task = self._task(request.task_id, context)
        if task.state == task_pb2.TASK_STATE_PENDING:
            task.state = task_pb2.TASK_STATE_CANCELLED
        return task_service_pb.CancelTaskResponse(state=task.state)

    def GetQueueStats(
        self, request: queue_pb.GetQueueStatsRequest, context: grpc.ServicerContext
    ) -> queue_pb.GetQueueStatsResponse:
        self.before(context)
        if request.queue not in self._queues():
            refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"no queue {request.queue}")
        return queue_pb.GetQueueStatsResponse(stats=self._stats(request.queue))

    def ListQueues(
        self, request: queue_pb.ListQueuesRequest, context: grpc.ServicerContext
    ) -> queue_pb.ListQueuesResponse:
        self.before(context)
        self.readings += 1
        self.read_level = request.read_level
        return queue_pb.ListQueuesResponse(queues=[self._stats(name) for name in self._queues()])

    def ConfigureQueue(
        self, request: queue_pb.ConfigureQueueRequest, context: grpc.ServicerContext
    ) -> queue_pb.ConfigureQueueResponse:
        self.before(context)
        self.masks.append(list(request.update_mask.paths))
        if request.must_exist and request.queue not in self._queues():
            refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"no queue {request.queue}")
        self.settings[request.queue] = request.settings
        return queue_pb.ConfigureQueueResponse(settings=request.settings)

    def DeleteQueue(
        self, request: queue_pb.DeleteQueueRequest, context: grpc.ServicerContext
    ) -> queue_pb.DeleteQueueResponse:
        self.before(context)
        if request.queue not in self._queues():
            refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"no queue {request.queue}")
        if any(task.spec.queue == request.queue for task in self.tasks.values()):
            code = grpc.StatusCode.FAILED_PRECONDITION
            refuse(context, code, "QUEUE_IN_USE", f"{request.queue} holds tasks")
        del self.settings[request.queue]
        return queue_pb.DeleteQueueResponse()

    def ListDeadLetters(
        self, request: queue_pb.ListDeadLettersRequest, context: grpc.ServicerContext
    ) -> queue_pb.ListDeadLettersResponse:
        self.before(context)
        return queue_pb.ListDeadLettersResponse(tasks=self._dead(request.queue))

    def Redrive(
        self, request: queue_pb.RedriveRequest, context: grpc.ServicerContext
    ) -> queue_pb.RedriveResponse:
        self.redrives.append(request)
        self.before(context)
        needed = {} if request.force else self.needed
        dead = {
            task.spec.task_id: task
            for task in self._dead(request.queue)
            if task.spec.task_id not in needed
        }
        chosen = list(request.task_ids) or list(dead)[: request.max_tasks]
        for task_id in set(chosen) & set(dead):
            dead[task_id].state = task_pb2.TASK_STATE_PENDING
        skipped = [task_id for task_id in chosen if task_id not in dead]
        return queue_pb.RedriveResponse(
            redriven=len(set(chosen) & set(dead)),
            skipped_task_ids=skipped,
            skipped=map(self._why_skipped, skipped),
            next_page_token="" if request.task_ids or len(chosen) == len(dead) else "more",
        )

    def DeleteDeadLetters(
        self, request: queue_pb.DeleteDeadLettersRequest, context: grpc.ServicerContext
    ) -> queue_pb.DeleteDeadLettersResponse:
        """Delete two at a time, as if they were large."""
        self.before(context)
        dead = [task.spec.task_id for task in self._dead(request.queue)]
        dead = [task_id for task_id in dead if task_id not in self.needed]
        chosen = list(request.task_ids)[:2] or dead[: min(2, request.max_tasks)]
        skipped = [task_id for task_id in chosen if task_id not in dead]
        reasons = [self._why_skipped(task_id) for task_id in skipped]
        for task_id in set(chosen) & set(dead):
            del self.tasks[task_id]
        return queue_pb.DeleteDeadLettersResponse(
            deleted=len(set(chosen) & set(dead)),
            skipped_task_ids=skipped,
            skipped=reasons,
            remaining_task_ids=request.task_ids[2:],
            next_page_token="" if request.task_ids or len(chosen) == len(dead) else "more",
        )

    def PurgeQueue(
        self, request: queue_pb.PurgeQueueRequest, context: grpc.ServicerContext
    ) -> queue_pb.PurgeQueueResponse:
        """Cancel all tasks at once, or, if it is old, two at a time."""
        self.purges += 1
        if request.at_once and self.is_old:
            message = "at_once needs cluster version 5"
            refuse(context, grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED", message)
        self.before(context)
        if request.stop:
            spared, self.purging = self.purging, 0
            return queue_pb.PurgeQueueResponse(spared=spared)
        waiting = [
            task
            for task in self.tasks.values()
            if task.spec.queue == request.queue
            and task.state in {task_pb2.TASK_STATE_PENDING, task_pb2.TASK_STATE_BLOCKED}
        ]
        if request.at_once:
            for task in waiting[: len(waiting) - self.purging]:
                task.state = task_pb2.TASK_STATE_CANCELLED
            return queue_pb.PurgeQueueResponse(cancelled=len(waiting))
        for task in waiting[:2]:
            task.state = task_pb2.TASK_STATE_CANCELLED
        return queue_pb.PurgeQueueResponse(
            cancelled=len(waiting[:2]), next_page_token="more" if waiting[2:] else ""
        )

    def VerifyState(
        self, request: cluster_pb.VerifyStateRequest, context: grpc.ServicerContext
    ) -> cluster_pb.VerifyStateResponse:
        self.before(context)
        self.verifies.append(request.start)
        return self.verified.pop(0) if len(self.verified) > 1 else self.verified[0]

    def Backup(
        self, request: cluster_pb.BackupRequest, context: grpc.ServicerContext
    ) -> Iterator[cluster_pb.BackupResponse]:
        self.backups.append(request)
        yield from self.backup
        self.before(context)

    def GetServerInfo(
        self, request: cluster_pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> cluster_pb.GetServerInfoResponse:
        self.before(context)
        return self.info

    def GetClusterStatus(
        self, request: cluster_pb.GetClusterStatusRequest, context: grpc.ServicerContext
    ) -> cluster_pb.GetClusterStatusResponse:
        return self.cluster

    def GetNodeStatus(
        self, request: cluster_pb.GetNodeStatusRequest, context: grpc.ServicerContext
    ) -> cluster_pb.GetNodeStatusResponse:
        return cluster_pb.GetNodeStatusResponse(node=self.cluster.nodes[0])

    def TransferLeadership(
        self, request: cluster_pb.TransferLeadershipRequest, context: grpc.ServicerContext
    ) -> cluster_pb.TransferLeadershipResponse:
        return cluster_pb.TransferLeadershipResponse(leader_id=request.target_node_id or "n2")

    def ReplaceNode(
        self, request: cluster_pb.ReplaceNodeRequest, context: grpc.ServicerContext
    ) -> cluster_pb.ReplaceNodeResponse:
        self.before(context)
        return cluster_pb.ReplaceNodeResponse(node_id=request.node_id, incarnation="new disk")

    def ListWorkers(
        self, request: worker_pb.ListWorkersRequest, context: grpc.ServicerContext
    ) -> worker_pb.ListWorkersResponse:
        self.before(context)
        return self.workers

    def Claim(
        self, request: worker_pb.ClaimRequest, context: grpc.ServicerContext
    ) -> worker_pb.ClaimResponse:
        raise NotImplementedError

    def Heartbeat(
        self, request: worker_pb.HeartbeatRequest, context: grpc.ServicerContext
    ) -> worker_pb.HeartbeatResponse:
        raise NotImplementedError

    def Report(
        self, request: worker_pb.ReportRequest, context: grpc.ServicerContext
    ) -> worker_pb.ReportResponse:
        raise NotImplementedError

    def _task(self, task_id: str, context: grpc.ServicerContext) -> task_pb2.Task:
        if task_id not in self.tasks:
            refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"no task {task_id}")
        return self.tasks[task_id]

    def _why_skipped(self, task_id: str) -> errors_pb2.ItemError:
        if task_id in self.needed:
            reason = errors_pb2.ERROR_REASON_HAS_DEPENDENTS
            return errors_pb2.ItemError(reason=reason, message=self.needed[task_id])
        if task_id not in self.tasks:
            message = f"there is no task {task_id!r}"
            return errors_pb2.ItemError(reason=errors_pb2.ERROR_REASON_NOT_FOUND, message=message)
        return errors_pb2.ItemError(
            reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT, message="only dead letters are taken"
        )

    def _dead(self, queue: str) -> list[task_pb2.Task]:
        return [
            task
            for task in self.tasks.values()
            if task.state == task_pb2.TASK_STATE_FAILED and queue in {"", task.spec.queue}
        ]

    def _queues(self) -> list[str]:
        return sorted({task.spec.queue for task in self.tasks.values()} | set(self.settings))

    def _stats(self, queue: str) -> queue_pb.QueueStats:
        states = [task.state for task in self.tasks.values() if task.spec.queue == queue]
        return queue_pb.QueueStats(
            queue=queue,
            pending=states.count(task_pb2.TASK_STATE_PENDING),
            blocked=states.count(task_pb2.TASK_STATE_BLOCKED),
            failed=states.count(task_pb2.TASK_STATE_FAILED),
            purging=self.purging if self.purges else 0,
            settings=self.settings.get(queue),
            totals=queue_pb.QueueTotals(submitted=self.submitted_a_reading * self.readings),
        )


def cluster(
    *, leader: str, down: tuple[str, ...] = (), term: int = 4
) -> cluster_pb.GetClusterStatusResponse:
    """Three nodes as one of them sees them."""
    response = cluster_pb.GetClusterStatusResponse(cluster_id="c1", leader_id=leader, term=term)
    for node_id in ("n1", "n2", "n3"):
        node = response.nodes.add(node_id=node_id, address=f"{node_id}.example:7001")
        if node_id in down:
            node.unreachable_reason = "connection refused"
            continue
        node.reachable = True
        node.role = (
            cluster_pb.NodeStatus.ROLE_LEADER
            if node_id == leader
            else cluster_pb.NodeStatus.ROLE_FOLLOWER
        )
        node.term, node.commit_index, node.applied_index = term, 1_207, 1_205
    return response


@contextmanager
def serving(broker: FakeBroker) -> Iterator[str]:
    """Serve the broker on loopback; yields its address."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    task_grpc.add_TaskServiceServicer_to_server(broker, server)
    queue_grpc.add_QueueServiceServicer_to_server(broker, server)
    cluster_grpc.add_ClusterServiceServicer_to_server(broker, server)
    worker_grpc.add_WorkerServiceServicer_to_server(broker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()
