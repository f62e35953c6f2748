"""The methods of the API, and how each may be repeated, as the options in the protos say."""

from __future__ import annotations

from typing import Any, Final

from tq.v1 import cluster_service_pb2 as cluster
from tq.v1 import options_pb2
from tq.v1 import queue_service_pb2 as queues
from tq.v1 import task_service_pb2 as tasks
from tq.v1 import worker_service_pb2 as workers
from tq_client.calls import Method, Repeat

_REPEATS: Final = {
    options_pb2.MethodPolicy.REPEAT_READ: Repeat.READ,
    options_pb2.MethodPolicy.REPEAT_IDEMPOTENT: Repeat.IDEMPOTENT,
    options_pb2.MethodPolicy.REPEAT_BY_REQUEST_ID: Repeat.BY_REQUEST_ID,
    options_pb2.MethodPolicy.REPEAT_NEVER: Repeat.NEVER,
}


def _repeat(service: Any, name: str) -> Repeat:  # noqa: ANN401  # the module of a service
    [described] = service.DESCRIPTOR.services_by_name.values()
    options = described.methods_by_name[name].GetOptions()
    return _REPEATS[options.Extensions[options_pb2.policy].repeat]


SUBMIT: Final = Method[tasks.SubmitRequest, tasks.SubmitResponse](
    lambda to: to.tasks.Submit, _repeat(tasks, "Submit"), "submit"
)
SUBMIT_TOGETHER: Final = Method[tasks.SubmitTogetherRequest, tasks.SubmitTogetherResponse](
    lambda to: to.tasks.SubmitTogether, _repeat(tasks, "SubmitTogether")
)
GET_TASK: Final = Method[tasks.GetTaskRequest, tasks.GetTaskResponse](
    lambda to: to.tasks.GetTask, _repeat(tasks, "GetTask"), "get_task"
)
LIST_TASKS: Final = Method[tasks.ListTasksRequest, tasks.ListTasksResponse](
    lambda to: to.tasks.ListTasks, _repeat(tasks, "ListTasks")
)
WAIT_TASK: Final = Method[tasks.WaitTaskRequest, tasks.WaitTaskResponse](
    lambda to: to.tasks.WaitTask, _repeat(tasks, "WaitTask"), "wait_task"
)
CANCEL_TASK: Final = Method[tasks.CancelTaskRequest, tasks.CancelTaskResponse](
    lambda to: to.tasks.CancelTask, _repeat(tasks, "CancelTask"), "cancel_task"
)

CLAIM: Final = Method[workers.ClaimRequest, workers.ClaimResponse](
    lambda to: to.workers.Claim, _repeat(workers, "Claim"), "claim"
)
HEARTBEAT: Final = Method[workers.HeartbeatRequest, workers.HeartbeatResponse](
    lambda to: to.workers.Heartbeat, _repeat(workers, "Heartbeat"), "heartbeat"
)
REPORT: Final = Method[workers.ReportRequest, workers.ReportResponse](
    lambda to: to.workers.Report, _repeat(workers, "Report"), "report"
)
LIST_WORKERS: Final = Method[workers.ListWorkersRequest, workers.ListWorkersResponse](
    lambda to: to.workers.ListWorkers, _repeat(workers, "ListWorkers")
)

GET_QUEUE_STATS: Final = Method[queues.GetQueueStatsRequest, queues.GetQueueStatsResponse](
    lambda to: to.queues.GetQueueStats, _repeat(queues, "GetQueueStats")
)
LIST_QUEUES: Final = Method[queues.ListQueuesRequest, queues.ListQueuesResponse](
    lambda to: to.queues.ListQueues, _repeat(queues, "ListQueues")
)
CONFIGURE_QUEUE: Final = Method[queues.ConfigureQueueRequest, queues.ConfigureQueueResponse](
    lambda to: to.queues.ConfigureQueue, _repeat(queues, "ConfigureQueue")
)
DELETE_QUEUE: Final = Method[queues.DeleteQueueRequest, queues.DeleteQueueResponse](
    lambda to: to.queues.DeleteQueue, _repeat(queues, "DeleteQueue")
)
LIST_DEAD_LETTERS: Final = Method[queues.ListDeadLettersRequest, queues.ListDeadLettersResponse](
    lambda to: to.queues.ListDeadLetters, _repeat(queues, "ListDeadLetters")
)
REDRIVE: Final = Method[queues.RedriveRequest, queues.RedriveResponse](
    lambda to: to.queues.Redrive, _repeat(queues, "Redrive")
)
DELETE_DEAD_LETTERS: Final = Method[
    queues.DeleteDeadLettersRequest, queues.DeleteDeadLettersResponse
](lambda to: to.queues.DeleteDeadLetters, _repeat(queues, "DeleteDeadLetters"))
PURGE_QUEUE: Final = Method[queues.PurgeQueueRequest, queues.PurgeQueueResponse](
    lambda to: to.queues.PurgeQueue, _repeat(queues, "PurgeQueue")
)

GET_SERVER_INFO: Final = Method[cluster.GetServerInfoRequest, cluster.GetServerInfoResponse](
    lambda to: to.cluster.GetServerInfo, _repeat(cluster, "GetServerInfo")
)
GET_CLUSTER_STATUS: Final = Method[
    cluster.GetClusterStatusRequest, cluster.GetClusterStatusResponse
](lambda to: to.cluster.GetClusterStatus, _repeat(cluster, "GetClusterStatus"))
TRANSFER_LEADERSHIP: Final = Method[
    cluster.TransferLeadershipRequest, cluster.TransferLeadershipResponse
](lambda to: to.cluster.TransferLeadership, _repeat(cluster, "TransferLeadership"))
VERIFY_STATE: Final = Method[cluster.VerifyStateRequest, cluster.VerifyStateResponse](
    lambda to: to.cluster.VerifyState, _repeat(cluster, "VerifyState")
)
REPLACE_NODE: Final = Method[cluster.ReplaceNodeRequest, cluster.ReplaceNodeResponse](
    lambda to: to.cluster.ReplaceNode, _repeat(cluster, "ReplaceNode")
)
