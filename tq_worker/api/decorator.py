"""The decorator `@task`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from tq_client import specs
from tq_client.specs import Backoff, Span, SpecFields
from tq_common.names import is_task_type
from tq_worker.api import registry
from tq_worker.api.context import Result, TaskContext
from tq_worker.api.registry import Execution, Function
from tq_worker.api.signatures import JSON, check_kind, is_plain
from tq_worker.api.typed import TypedTask

DEFAULT_QUEUE = "default"

P = ParamSpec("P")
R = TypeVar("R")
AnyFunction = TypeVar("AnyFunction", bound=Function)


class Decorator:
    """`@task(...)`, before it is applied to a function."""

    def __init__(
        self,
        task_type: str | None,
        *,
        queue: str | None = None,
        retries: int | None = None,
        timeout: Span | None = None,
        backoff: Backoff | None = None,
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        retention: Span | None = None,
        execution: Execution | None = None,
        concurrency: int | None = None,
    ) -> None:
        self._task_type = task_type
        self._queue = queue
        self._execution = execution
        self._concurrency = concurrency
        fields: SpecFields = {
            "retries": retries,
            "timeout": timeout,
            "backoff": backoff,
            "priority": priority,
            "labels": labels,
            "retention": retention,
        }
        specs.check_values("@task", fields)
        self._fields = specs.merged({}, fields)

    # mypy: a handler of bytes fits the last two as well; the first that fits is taken.
    @overload
    def __call__(self, function: AnyFunction) -> AnyFunction: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(
        self, function: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, Result[R]]]
    ) -> TypedTask[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[TaskContext, P], Result[R]]
    ) -> TypedTask[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, Result[R]]]
    ) -> TypedTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Result[R]]) -> TypedTask[P, R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, R]]
    ) -> TypedTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[TaskContext, P], R]) -> TypedTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> TypedTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R]) -> TypedTask[P, R]: ...
    def __call__(self, function: Callable[..., Any]) -> Any:
        """Register the function; returns a handler of bytes itself, else its `TypedTask`."""
        task_type = self._task_type
        if task_type is None:
            task_type = f"{function.__module__}.{function.__qualname__}"
        try:
            check_kind(function)
        except TypeError as error:
            raise TypeError(f"@task({task_type!r}): {function.__qualname__}: {error}") from None
        if is_plain(function):
            if self._queue is not None or self._fields:
                raise TypeError(
                    f"@task({task_type!r}): queue and options of its tasks are for functions with "
                    "types of their own; a handler of bytes is submitted with those"
                )
            registry.HANDLERS.add(
                task_type, function, execution=self._execution, concurrency=self._concurrency
            )
            return function
        if not is_task_type(task_type) and self._task_type is None:
            raise ValueError(f"@task: {task_type} cannot be a task's type: give it a name")
        try:
            typed: TypedTask[..., Any] = TypedTask(
                function,
                task_type=task_type,
                queue=self._queue or DEFAULT_QUEUE,
                fields=specs.merged({"content_type": JSON}, self._fields),
            )
        except TypeError as error:
            raise TypeError(f"@task({task_type!r}): {function.__qualname__}: {error}") from None
        registry.HANDLERS.add(
            task_type,
            typed.handler(),
            execution=self._execution,
            concurrency=self._concurrency,
            prepare=typed.signature.prepare,
            queue=typed.queue,
        )
        return typed


@overload
def task(task_type: AnyFunction) -> AnyFunction: ...  # type: ignore[overload-overlap]  # as above
@overload
def task(
    task_type: str | None = None,
    *,
    queue: str | None = None,
    retries: int | None = None,
    timeout: Span | None = None,
    backoff: Backoff | None = None,
    priority: int | None = None,
    labels: Mapping[str, str] | None = None,
    retention: Span | None = None,
    execution: Execution | None = None,
    concurrency: int | None = None,
) -> Decorator: ...
@overload
def task(
    task_type: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, Result[R]]],
) -> TypedTask[P, R]: ...
@overload
def task(task_type: Callable[Concatenate[TaskContext, P], Result[R]]) -> TypedTask[P, R]: ...
@overload
def task(task_type: Callable[P, Coroutine[Any, Any, Result[R]]]) -> TypedTask[P, R]: ...
@overload
def task(task_type: Callable[P, Result[R]]) -> TypedTask[P, R]: ...
@overload
def task(
    task_type: Callable[Concatenate[TaskContext, P], Coroutine[Any, Any, R]],
) -> TypedTask[P, R]: ...
@overload
def task(task_type: Callable[Concatenate[TaskContext, P], R]) -> TypedTask[P, R]: ...
@overload
def task(task_type: Callable[P, Coroutine[Any, Any, R]]) -> TypedTask[P, R]: ...
@overload
def task(task_type: Callable[P, R]) -> TypedTask[P, R]: ...
def task(
    task_type: str | Callable[..., Any] | None = None,
    *,
    queue: str | None = None,
    retries: int | None = None,
    timeout: Span | None = None,
    backoff: Backoff | None = None,
    priority: int | None = None,
    labels: Mapping[str, str] | None = None,
    retention: Span | None = None,
    execution: Execution | None = None,
    concurrency: int | None = None,
) -> Any:
    """Have the decorated function run tasks of ``task_type``, by default its module and name.

    A function of (payload: bytes, context: TaskContext) is a handler of bytes: it takes the payload
    unchanged, returns bytes, a `Result` or None, and the decorator returns it unchanged. Any other
    annotated function becomes a `TypedTask`: its arguments and its result are sent as JSON, as
    pydantic reads and writes their types. If its first parameter is a TaskContext, the worker
    passes the context, and callers leave it out. An async function runs on the event loop of its
    handler process, a sync one in a thread of that process; with execution="process" either has a
    process to itself while it runs.

    Args:
        task_type: the type of the tasks; or the function itself, for `@task` without parentheses.
        queue: the queue that `submit` uses; "default" by default.
        retries: how many attempts may follow the first; 4 by default.
        timeout: how long one attempt may take, a timedelta or seconds; unlimited by default.
        backoff: how long a task waits between a failed attempt and the next.
        priority: 0, the least urgent, to 255.
        labels: labels of each task, for people and filters.
        retention: how long a task is kept once it has ended.
        execution: "process" for handlers that compute, that may crash, or that cannot be stopped:
            if their process dies, no other task is affected. The default is "async" for an async
            function and "thread" for a sync one.
        concurrency: how many of these tasks one worker runs at a time, at most; by default, as
            many as it has slots for.
    """
    if callable(task_type):
        return Decorator(None)(task_type)
    return Decorator(
        task_type,
        queue=queue,
        retries=retries,
        timeout=timeout,
        backoff=backoff,
        priority=priority,
        labels=labels,
        retention=retention,
        execution=execution,
        concurrency=concurrency,
    )
