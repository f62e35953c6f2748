"""The decorator `@task`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from tq_worker import registry
from tq_worker.context import TaskContext
from tq_worker.registry import TYPE_PATTERN, Execution, Function
from tq_worker.signatures import JSON, is_plain
from tq_worker.typed import TypedTask

if TYPE_CHECKING:
    from tq_client import SpecFields

DEFAULT_QUEUE = "default"
RETRIES_MAX = 999

P = ParamSpec("P")
R = TypeVar("R")
AnyFunction = TypeVar("AnyFunction", bound=Function)


class Decorator:
    """`@task(...)`, before it is given its function."""

    def __init__(
        self,
        task_type: str | None,
        *,
        queue: str | None = None,
        retries: int | None = None,
        timeout: timedelta | None = None,
        execution: Execution | None = None,
        concurrency: int | None = None,
    ) -> None:
        if retries is not None and not 0 <= retries <= RETRIES_MAX:
            raise ValueError(f"@task: retries={retries!r}: 0 to {RETRIES_MAX} are allowed")
        if timeout is not None and timeout <= timedelta():
            raise ValueError(f"@task: timeout={timeout!r}: must be more than nothing")
        self._task_type = task_type
        self._queue = queue
        self._execution = execution
        self._concurrency = concurrency
        self._fields: SpecFields = {}
        if retries is not None:
            self._fields["max_attempts"] = retries + 1
        if timeout is not None:
            self._fields["timeout"] = timeout

    # mypy: a function of bytes fits the last two as well; the first that fits is taken.
    @overload
    def __call__(self, function: AnyFunction) -> AnyFunction: ...  # type: ignore[overload-overlap]
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
        """Register the function, and return it or what it can be submitted with."""
        task_type = self._task_type
        if task_type is None:
            task_type = f"{function.__module__}.{function.__qualname__}"
        if is_plain(function):
            if self._queue is not None or self._fields:
                raise TypeError(
                    f"@task({task_type!r}): queue, retries and timeout are for functions with "
                    "types of their own; a handler of bytes is submitted with those"
                )
            registry.HANDLERS.add(
                task_type, function, execution=self._execution, concurrency=self._concurrency
            )
            return function
        if not TYPE_PATTERN.fullmatch(task_type) and self._task_type is None:
            raise ValueError(f"@task: {task_type} cannot be a task's type: give it a name")
        try:
            typed: TypedTask[..., Any] = TypedTask(
                function,
                task_type=task_type,
                queue=self._queue or DEFAULT_QUEUE,
                fields={"content_type": JSON, **self._fields},
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
    timeout: timedelta | None = None,
    execution: Execution | None = None,
    concurrency: int | None = None,
) -> Decorator: ...
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
    timeout: timedelta | None = None,
    execution: Execution | None = None,
    concurrency: int | None = None,
) -> Any:
    """Have the decorated function run tasks of ``task_type``, by default its module and name.

    A function of (payload: bytes, context: TaskContext) is given the payload as it is, returns
    bytes, a `Result` or None, and is left as it is. Any other that says its types becomes a
    `TypedTask`: its arguments and its result are sent as JSON, as pydantic reads and writes their
    types. Where its first parameter is a TaskContext it is given that, and callers leave it out. An
    async function runs on the event loop of its handler process, a sync one in one of its threads;
    with execution="process" either has a process to itself while it runs.

    Args:
        task_type: which tasks; or the function itself, for `@task` without parentheses.
        queue: where `submit` puts them, "default" if nothing is said.
        retries: how often one is tried again after its first attempt; 4 if nothing is said.
        timeout: how long one attempt may take; as long as it likes if nothing is said.
        execution: "process" for handlers that compute, that may crash, or that cannot be stopped:
            what becomes of the process is no other task's affair. Else "async" or "thread", which
            is what the function is.
        concurrency: how many run at a time in one worker, at most; as many as fit if nothing is
            said.
    """
    if callable(task_type):
        return Decorator(None)(task_type)
    return Decorator(
        task_type,
        queue=queue,
        retries=retries,
        timeout=timeout,
        execution=execution,
        concurrency=concurrency,
    )
