"""The methods of the API, each with how it may be repeated."""

from __future__ import annotations

from typing import Final

from tq.v1 import cluster_service_pb2 as cluster
from tq.v1 import queue_service_pb2 as queues
from tq.v1 import task_service_pb2 as tasks
from tq.v1 import worker_service_pb2 as workers
from tq_client.calls import Method, Repeat

SUBMIT: Final = Method[tasks.SubmitRequest, tasks.SubmitResponse](
    lambda to: to.tasks.Submit, Repeat.BY_REQUEST_ID
)
GET_TASK: Final = Method[tasks.GetTaskRequest, tasks.GetTaskResponse](
    lambda to: to.tasks.GetTask, Repeat.READ
)
LIST_TASKS: Final = Method[tasks.ListTasksRequest, tasks.ListTasksResponse](
    lambda to: to.tasks.ListTasks, Repeat.READ
)
WAIT_TASK: Final = Method[tasks.WaitTaskRequest, tasks.WaitTaskResponse](
    lambda to: to.tasks.WaitTask, Repeat.READ
)
CANCEL_TASK: Final = Method[tasks.CancelTaskRequest, tasks.CancelTaskResponse](
    lambda to: to.tasks.CancelTask, Repeat.BY_REQUEST_ID
)

CLAIM: Final = Method[workers.ClaimRequest, workers.ClaimResponse](
    lambda to: to.workers.Claim, Repeat.BY_REQUEST_ID
)
HEARTBEAT: Final = Method[workers.HeartbeatRequest, workers.HeartbeatResponse](
    lambda to: to.workers.Heartbeat, Repeat.IDEMPOTENT
)
REPORT: Final = Method[workers.ReportRequest, workers.ReportResponse](
    lambda to: to.workers.Report, Repeat.IDEMPOTENT
)
LIST_WORKERS: Final = Method[workers.ListWorkersRequest, workers.ListWorkersResponse](
    lambda to: to.workers.ListWorkers, Repeat.READ
)

GET_QUEUE_STATS: Final = Method[queues.GetQueueStatsRequest, queues.GetQueueStatsResponse](
    lambda to: to.queues.GetQueueStats, Repeat.READ
)
LIST_QUEUES: Final = Method[queues.ListQueuesRequest, queues.ListQueuesResponse](
    lambda to: to.queues.ListQueues, Repeat.READ
)
# Made again late it could undo what another caller has set meanwhile.
CONFIGURE_QUEUE: Final = Method[queues.ConfigureQueueRequest, queues.ConfigureQueueResponse](
    lambda to: to.queues.ConfigureQueue, Repeat.NEVER
)
LIST_DEAD_LETTERS: Final = Method[queues.ListDeadLettersRequest, queues.ListDeadLettersResponse](
    lambda to: to.queues.ListDeadLetters, Repeat.READ
)
REDRIVE: Final = Method[queues.RedriveRequest, queues.RedriveResponse](
    lambda to: to.queues.Redrive, Repeat.BY_REQUEST_ID
)
DELETE_DEAD_LETTERS: Final = Method[
    queues.DeleteDeadLettersRequest, queues.DeleteDeadLettersResponse
](lambda to: to.queues.DeleteDeadLetters, Repeat.BY_REQUEST_ID)
PURGE_QUEUE: Final = Method[queues.PurgeQueueRequest, queues.PurgeQueueResponse](
    lambda to: to.queues.PurgeQueue, Repeat.BY_REQUEST_ID
)

GET_CLUSTER_STATUS: Final = Method[
    cluster.GetClusterStatusRequest, cluster.GetClusterStatusResponse
](lambda to: to.cluster.GetClusterStatus, Repeat.READ)
TRANSFER_LEADERSHIP: Final = Method[
    cluster.TransferLeadershipRequest, cluster.TransferLeadershipResponse
](lambda to: to.cluster.TransferLeadership, Repeat.NEVER)
VERIFY_STATE: Final = Method[cluster.VerifyStateRequest, cluster.VerifyStateResponse](
    lambda to: to.cluster.VerifyState, Repeat.IDEMPOTENT
)
REPLACE_NODE: Final = Method[cluster.ReplaceNodeRequest, cluster.ReplaceNodeResponse](
    lambda to: to.cluster.ReplaceNode, Repeat.NEVER
)
