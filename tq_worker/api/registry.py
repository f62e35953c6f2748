"""Which handler runs which type of task."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tq_common.names import TASK_TYPE_RULE, is_task_type
from tq_worker.api.context import Result, TaskContext

Execution = Literal["async", "thread", "process"]

CONCURRENCY_MAX = 1000
_OURS = (__file__, str(Path(__file__).with_name("decorator.py")))

Returned = bytes | Result | None
Function = Callable[[bytes, TaskContext], Returned | Awaitable[Returned]]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that runs tasks of one type."""

    task_type: str
    function: Function
    is_async: bool
    execution: Execution
    concurrency: int = 0
    """How many of its tasks one worker runs at a time, at most; 0: as many as fit."""
    prepare: Callable[[], object] = lambda: None
    """Raises if the function is unusable."""
    queue: str = ""
    """The queue that its `submit` uses; empty for a handler of bytes."""


class Registry:
    """The handlers known so far."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add(
        self,
        task_type: str,
        function: Function,
        *,
        execution: Execution | None = None,
        concurrency: int | None = None,
        prepare: Callable[[], object] = lambda: None,
        queue: str = "",
    ) -> None:
        """Have ``function`` run tasks of ``task_type``; TypeError or ValueError if it cannot."""
        if not is_task_type(task_type):
            raise ValueError(f"@task({task_type!r}): a task type is {TASK_TYPE_RULE}")
        try:
            inspect.signature(function).bind(b"", None)
        except TypeError as error:
            raise TypeError(
                f"@task({task_type!r}): {_name(function)} must take (payload, context): {error}"
            ) from None
        is_async = inspect.iscoroutinefunction(function)
        fits = execution in {None, "process", "async" if is_async else "thread"}
        if not fits and execution in get_args(Execution):
            kind = "async" if is_async else "not async"
            raise ValueError(
                f"@task({task_type!r}): execution={execution!r}: {_name(function)} is {kind}"
            )
        if not fits:
            raise ValueError(
                f"@task({task_type!r}): execution={execution!r}: it is async, thread or process"
            )
        if concurrency is not None and not 1 <= concurrency <= CONCURRENCY_MAX:
            raise ValueError(
                f"@task({task_type!r}): concurrency={concurrency!r}: "
                f"1 to {CONCURRENCY_MAX} are allowed"
            )
        known = self._handlers.get(task_type)
        if known is not None and known.function is not function:
            raise ValueError(
                f"@task({task_type!r}): both {_name(known.function)} and {_name(function)} "
                "claim this type"
            )
        self._handlers[task_type] = Handler(
            task_type=task_type,
            function=function,
            is_async=is_async,
            execution=execution or ("async" if is_async else "thread"),
            concurrency=concurrency or 0,
            prepare=prepare,
            queue=queue,
        )

    def get(self, task_type: str) -> Handler | None:
        return self._handlers.get(task_type)

    def problems(self) -> list[str]:
        """Prepare every handler; returns their problems, for people."""
        problems = []
        for handler in self._handlers.values():
            try:
                handler.prepare()
            except Exception as error:  # noqa: BLE001 - user code: annotations may raise anything
                problems.append(f"@task({handler.task_type!r}): {_name(handler.function)}: {error}")
        return problems

    def task_types(self) -> list[str]:
        return sorted(self._handlers)

    def handlers(self) -> list[Handler]:
        """Return all handlers, sorted by type."""
        return [self._handlers[each] for each in self.task_types()]


HANDLERS = Registry()
"""Filled by `@task`."""


@dataclass(frozen=True, slots=True)
class Import:
    """The outcome of importing the handlers."""

    problems: Sequence[str]
    """For people; empty if there are none."""
    errors: Sequence[BaseException]
    """What modules raised."""


def load(modules: Sequence[str]) -> Import:
    """Import the modules, which fill `HANDLERS`."""
    problems: list[str] = []
    errors: list[BaseException] = []
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code, which may raise anything
            problems.append(f"--handlers {module}: cannot be imported: {_explain(error)}")
            errors.append(error)
    problems += HANDLERS.problems()
    if not problems and not HANDLERS.task_types():
        problems.append(
            f"--handlers {','.join(modules)}: no function there is decorated with @task"
        )
    return Import(problems, errors)


def _explain(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    user_frames = [
        frame
        for frame in frames
        if frame.filename not in _OURS and not frame.filename.startswith("<frozen importlib")
    ]
    # The decorator's own frames say nothing; if the module itself is missing, there are no frames.
    while user_frames and user_frames[-1].filename.endswith(
        ("importlib/__init__.py", "inspect.py")
    ):
        user_frames.pop()
    if user_frames:
        text += f" (at {user_frames[-1].filename}, line {user_frames[-1].lineno})"
    return text


def _name(function: Function) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"
