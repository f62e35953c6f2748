"""The interfaces of the rest of the node that the service uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from tq.v1 import cluster_service_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.operations import Caller, Claim, Operation, Outcome, Refused, Replied
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.core.reads.steps import Reader, Steps
from tq_cluster.core.rows.view import View

Answer = TypeVar("Answer")


class Leading(Protocol):
    """What only a leader does; all of it raises NotLeaderError while this node does not lead."""

    def serving(self) -> bool:
        """Whether this node leads and has begun to decide."""

    def stop(self) -> None:
        """End the leadership; waiting callers get NotLeaderError."""

    async def submit(self, operation: Operation) -> Outcome:
        """Have ``operation`` decided, committed and applied."""

    async def read(self, query: Callable[[Reader], Steps[Answer]]) -> Answer:
        """Answer ``query`` from a state that holds every write acknowledged before the call."""

    async def heartbeat(
        self, request: worker_service_pb2.HeartbeatRequest, caller: Caller
    ) -> Replied | Refused:
        """Renew the leases listed."""

    async def claim(self, operation: Claim, wait_s: float, received_s: float) -> Outcome:
        """Lease ready tasks, waiting up to ``wait_s`` for some.

        ``received_s`` is when the call arrived, by the event loop's clock.
        """

    def give_back(self, operation: Claim, outcome: Outcome) -> None:
        """Release tasks that a claim granted to a caller which could not receive the answer."""

    async def wait_task(
        self,
        request: task_service_pb2.WaitTaskRequest,
        caller: Caller,
        wait_s: float,
        holds: Callable[[int], None],
    ) -> Replied | Refused:
        """Answer with the task once it is terminal, or as it is after ``wait_s``.

        ``holds`` is called with the answer's size, as ``Reader.holds`` is.
        """

    async def verify_state(
        self, request: cluster_service_pb2.VerifyStateRequest
    ) -> Replied | Refused:
        """Report the progress of the state comparison; begin a pass if the request asks for one."""

    async def list_workers(
        self, request: worker_service_pb2.ListWorkersRequest, caller: Caller
    ) -> Replied | Refused:
        """List the workers of the caller's namespace that the leader has heard from."""


class CommittedView(View, Protocol):
    """The state on this node's disk."""

    @property
    def applied(self) -> AppliedAt:
        """Return the last entry that the state holds."""


class Committed(Protocol):
    """The state on this node's disk, readable without a leader."""

    def committed_view(self) -> AbstractContextManager[CommittedView]:
        """Open it for one read."""
