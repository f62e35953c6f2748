"""Typed functions: submitted with the arguments of a call, with results of their return type."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack

from tq.v1.task_pb2 import TaskSpec
from tq_client.enums import TaskState
from tq_client.model import Task
from tq_worker.api.context import Result, TaskContext
from tq_worker.api.errors import PermanentError, TaskFailedError
from tq_worker.api.registry import Function
from tq_worker.api.signatures import JSON, Signature

if TYPE_CHECKING:
    # Imported at run time only to submit: a handler process needs no gRPC.
    from tq_client import AsyncClient, Client, SpecFields, TqError

    AnyClient = Client | AsyncClient

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Handle(Generic[R]):
    """One submitted task."""

    task_id: str
    _task: TypedTask[..., R]

    def result(self, timeout_s: float | None = None) -> R:
        """Wait for the result; raises TaskFailedError if the task is FAILED or CANCELLED.

        The error names the other task if the task ended because that one did (``depends_on``).
        Raises TimeoutError after ``timeout_s``, by default the client's; the task goes on.
        """
        return self._read(self._task.blocking().wait(self.task_id, timeout_s=timeout_s))

    async def result_async(self, timeout_s: float | None = None) -> R:
        """Do the same without blocking the event loop."""
        return self._read(
            await self._task.awaited(lambda each: each.wait(self.task_id, timeout_s=timeout_s))
        )

    def state(self) -> TaskState:
        """Look up the task's state: TaskState.PENDING, RUNNING, COMPLETED and so on.

        Raises NotFoundError once the task is removed.
        """
        return self._task.blocking().get(self.task_id, omit_payload=True).state

    async def state_async(self) -> TaskState:
        """Do the same without blocking the event loop."""
        task = await self._task.awaited(lambda each: each.get(self.task_id, omit_payload=True))
        return task.state

    def cancel(self) -> None:
        """Cancel the task; if it runs, its handler is asked to stop and may still finish."""
        self._task.blocking().cancel(self.task_id)

    async def cancel_async(self) -> None:
        """Do the same without blocking the event loop."""
        await self._task.awaited(lambda each: each.cancel(self.task_id))

    def _read(self, task: Task) -> R:
        if task.state != TaskState.COMPLETED:
            raise TaskFailedError(task)
        result: R = self._task.signature.decode_result(task.result)
        return result


class TypedTask(Generic[P, R]):
    """A typed function with `@task`: calls of it can be submitted as tasks."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        task_type: str,
        queue: str,
        fields: SpecFields,
        client: AnyClient | None = None,
    ) -> None:
        self.function = function
        """The function itself, to call directly, for example in a test."""
        self.signature = Signature(function)
        self.task_type = task_type
        self.queue = queue
        self._fields = fields
        self._client = client

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function directly, without a queue, for example in a test.

        Raises TypeError if it is async or takes a TaskContext: call `function` instead.
        """
        name = self.function.__qualname__
        if inspect.iscoroutinefunction(self.function):
            raise TypeError(f"{name} is async: await {name}.function(...) runs it here")
        if self.signature.takes_context:
            raise TypeError(
                f"{name} takes a TaskContext: {name}.function(context, ...) runs it here"
            )
        result: R = self.function(*args, **kwargs)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a reference to its function's name, with its options, without its client."""
        where = (self.function.__module__, self.function.__qualname__)
        return _found, (*where, self.queue, self._fields)

    def handle(self, task_id: str) -> Handle[R]:
        """Return the handle of a task that was submitted earlier, perhaps by another program."""
        return Handle(task_id, self)

    def options(
        self,
        *,
        client: AnyClient | None = None,
        queue: str | None = None,
        **fields: Unpack[SpecFields],
    ) -> TypedTask[P, R]:
        """Return a copy with other options for the tasks that it submits.

        Args:
            client: the client to submit with: a Client for `submit`, an AsyncClient for
                `submit_async`. By default, the whole program shares one client for both, made on
                first use, of the brokers at TQ_ADDRESS.
            queue: the queue to submit to.
            fields: as for `Client.submit`: delay, priority, labels, a task_id, the handles of
                tasks to wait for (``depends_on``) and so on (`tq_client.SpecFields`). Raises
                TypeError for an unknown field.
        """
        from tq_client import specs  # noqa: PLC0415 - as above

        where = f"{self.function.__qualname__}.options"
        specs.check(where, fields, ("client", "queue"))
        specs.check_values(where, fields)
        return TypedTask(
            self.function,
            task_type=self.task_type,
            queue=queue or self.queue,
            fields=specs.merged(self._fields, fields),
            client=client or self._client,
        )

    def spec(self, *args: P.args, **kwargs: P.kwargs) -> TaskSpec:
        """Make the task without submitting it, for example for the ``submit`` of a `Result`.

        Raises TypeError if the arguments do not fit the function, and ValueError if the task's type
        is a name in ``__main__``.
        """
        from tq_client import task_spec  # noqa: PLC0415 - as above

        if self.task_type.startswith("__main__."):
            raise ValueError(
                f"{self.task_type}: a worker imports this module under another name; give the "
                "task a name, @task('name'), or submit it from another module"
            )
        payload = self.signature.encode(args, kwargs)
        return task_spec(self.queue, self.task_type, payload, **self._fields)

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Submit a call of the function; returns once a majority has the task on disk."""
        [handle] = self.handles(self.blocking().submit_many([self.spec(*args, **kwargs)]))
        return handle

    async def submit_async(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Do the same without blocking the event loop."""
        specs = [self.spec(*args, **kwargs)]
        [handle] = self.handles(await self.awaited(lambda client: client.submit_many(specs)))
        return handle

    def map(
        self: TypedTask[Concatenate[A, Q], S], items: Iterable[A], *args: Q.args, **kwargs: Q.kwargs
    ) -> list[Handle[S]]:
        """Submit one call per item, with the item as first argument and the others the same.

        Returns the handles in the items' order. If some tasks are refused, raises the first
        refusal; the rest are submitted all the same.
        """
        specs = [self.spec(item, *args, **kwargs) for item in items]
        return self.handles(self.blocking().submit_many(specs))

    async def map_async(
        self: TypedTask[Concatenate[A, Q], S], items: Iterable[A], *args: Q.args, **kwargs: Q.kwargs
    ) -> list[Handle[S]]:
        """Do the same without blocking the event loop."""
        specs = [self.spec(item, *args, **kwargs) for item in items]
        return self.handles(await self.awaited(lambda client: client.submit_many(specs)))

    def handler(self) -> Function:
        """Return the handler of bytes that a worker runs."""
        # By position: the function may give its context any name.
        given = 1 if self.signature.takes_context else 0

        async def run_async(payload: bytes, context: TaskContext) -> Result:
            arguments = self.signature.decode(payload)
            value = await self.function(*(context,)[:given], **arguments)
            return self._result(value)

        def run(payload: bytes, context: TaskContext) -> Result:
            arguments = self.signature.decode(payload)
            value = self.function(*(context,)[:given], **arguments)
            return self._result(value)

        chosen: Function = run_async if inspect.iscoroutinefunction(self.function) else run
        # The names for the error if two functions claim one type.
        chosen.__module__ = self.function.__module__
        chosen.__qualname__ = self.function.__qualname__
        return chosen

    def _result(self, value: object) -> Result:
        submit: Sequence[TaskSpec] = ()
        if isinstance(value, Result):
            submit = value.submit
            value = value.body
        try:
            return Result(self.signature.encode_result(value), JSON, submit)
        except Exception as error:
            said = inspect.formatannotation(inspect.signature(self.function).return_annotation)
            raise PermanentError(
                f"the result does not fit: it is of type {type(value).__name__}, the function says"
                f" {said}: {error}"
            ) from error

    def blocking(self) -> Client:
        """Return the client for calls that block."""
        from tq_client import AsyncClient  # noqa: PLC0415 - as above
        from tq_client.shared import shared  # noqa: PLC0415 - as above

        client = self._client or shared()
        if isinstance(client, AsyncClient):
            raise TypeError(
                "an AsyncClient cannot block: use submit_async, map_async, result_async"
            )
        return client

    async def awaited(self, call: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        """Make a call without blocking the event loop."""
        from tq_client import AsyncClient  # noqa: PLC0415 - as above
        from tq_client.shared import SharedClient, shared  # noqa: PLC0415 - as above

        client = self._client or shared()
        if isinstance(client, AsyncClient):
            return await call(client)
        if isinstance(client, SharedClient):
            return await client.awaited(call)
        raise TypeError("a Client blocks: use submit, map, result, or give an AsyncClient")

    def handles(self, outcomes: Iterable[str | TqError]) -> list[Handle[R]]:
        """Make a handle for each task's id; raises the first error."""
        from tq_client import TqError  # noqa: PLC0415 - as above

        made = []
        for outcome in outcomes:
            if isinstance(outcome, TqError):
                raise outcome
            made.append(Handle(outcome, self))
        return made


def _found(module: str, name: str, queue: str, fields: SpecFields) -> TypedTask[..., Any]:
    """Find the typed task that a pickle refers to; raises TypeError if it is none any more."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, TypedTask):
        raise TypeError(f"{module}.{name} is no function with @task any more")
    return TypedTask(
        found.function, task_type=found.task_type, queue=queue, fields=fields, client=None
    )
