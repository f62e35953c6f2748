"""The one place that decides who calls and what they may do. Today: anybody, everything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from google.protobuf.message import Message

from tq.v1 import task_service_pb2
from tq_cluster.core.model.types import Principal
from tq_cluster.core.reads.queries import queues_of
from tq_cluster.core.reads.steps import Reader, Steps
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View
from tq_cluster.reading import Reading
from tq_cluster.service.backend import Committed, Leading
from tq_cluster.service.call import Call
from tq_cluster.service.paths import STEP_VALUES, Path, in_steps
from tq_cluster.service.policy import Access, Policy, Verb

Authenticate = Callable[[Mapping[str, str]], Principal]
"""Takes a call's metadata and returns the caller's name; raises CallError for wrong credentials."""

Authorize = Callable[[Principal, Verb, int, str], None]
"""Takes principal, verb, namespace and queue ("": all of the namespace, or the cluster); raises
CallError to refuse.
"""


def authenticate(_metadata: Mapping[str, str]) -> Principal:
    """Treat every caller as anonymous."""
    return Principal("")


def authorize(_principal: Principal, _verb: Verb, _namespace: int, _queue: str) -> None:
    """Allow everything."""


class Authorizer:
    """Asks the hook about each call, as the options of its method say (options.proto).

    A call is refused as a whole if one of its queues is. Nothing is asked for a task that does not
    exist: the call answers so.

    A call is checked once, before it is handled, also if it waits long. The queue of a task is that
    at the time of the check: if the task is removed before the call is decided, and its id is used
    again in another queue, it is not looked up again.
    """

    def __init__(
        self,
        authorize: Authorize,
        *,
        leading: Leading,
        committed: Committed,
        reading: Reading,
    ) -> None:
        self._authorize = authorize
        self._leading = leading
        self._committed = committed
        self._reading = reading

    async def check(self, policy: Policy, request: Message, call: Call) -> None:
        """Raise CallError if the caller may not make this request.

        NotLeaderError if a task's queue has to be looked up and this node does not lead.
        """
        caller = call.caller
        for access in policy.access:
            if not access.applies(request):
                continue
            queues = await self._queues(access, request, caller.namespace)
            for count, queue in enumerate(queues, 1):
                self._authorize(caller.principal, access.verb, caller.namespace, queue)
                if not count % STEP_VALUES:
                    await asyncio.sleep(0)

    async def _queues(self, access: Access, request: Any, namespace: int) -> list[str]:  # noqa: ANN401  # any method's request
        """Return the queues that a request names; "" alone for all of them, or for the cluster."""
        if access.queue is None and access.task is None:
            return [""]
        queues = await _distinct(access.queue, request)
        tasks = await _distinct(access.task, request)
        if not tasks:
            return list(queues)
        queues.pop("", None)  # the request names tasks in its place
        local = getattr(request, "read_level", None) == task_service_pb2.READ_LEVEL_LOCAL
        queues.update(dict.fromkeys(await self._look_up(list(tasks), namespace, local=local)))
        return list(queues)

    async def _look_up(self, task_ids: list[str], namespace: int, *, local: bool) -> list[str]:
        def query(reader: Reader) -> Steps[list[str]]:
            return queues_of(Scope.of(reader, namespace), task_ids)

        if local:
            return await self._reading.answer(query, self._on_disk)
        return await self._leading.read(query)

    def _on_disk(self) -> AbstractContextManager[View]:
        return self._committed.committed_view()


async def _distinct(path: Path | None, request: Message) -> dict[str, None]:
    """Return the different names at a path, in the order of the request."""
    if path is None:
        return {}
    return {name: None async for name in in_steps(path, path.values(request))}
