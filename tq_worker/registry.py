"""Which handler runs which type of task."""

from __future__ import annotations

import importlib
import inspect
import re
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tq_worker.context import Result, TaskContext

TYPE_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_OURS = (__file__, str(Path(__file__).with_name("tasks.py")))

Returned = bytes | Result | None
Function = Callable[[bytes, TaskContext], Returned | Awaitable[Returned]]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that runs tasks of one type."""

    task_type: str
    function: Function
    is_async: bool
    prepare: Callable[[], object] = lambda: None
    """Raises where the function turns out to be unusable."""
    queue: str = ""
    """Where its `submit` puts tasks; empty for one of bytes."""

    @property
    def kind(self) -> str:
        """How it is run, for people."""
        return "async" if self.is_async else "thread"


class Registry:
    """The handlers known so far."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add(
        self,
        task_type: str,
        function: Function,
        *,
        prepare: Callable[[], object] = lambda: None,
        queue: str = "",
    ) -> None:
        """Have ``function`` run tasks of ``task_type``; raises where it cannot."""
        if not TYPE_PATTERN.fullmatch(task_type):
            raise ValueError(
                f"@task({task_type!r}): a task type is 1 to 128 characters of A-Z a-z 0-9 . _ : -"
            )
        try:
            inspect.signature(function).bind(b"", None)
        except TypeError as error:
            raise TypeError(
                f"@task({task_type!r}): {_name(function)} must take (payload, context): {error}"
            ) from None
        known = self._handlers.get(task_type)
        if known is not None and known.function is not function:
            raise ValueError(
                f"@task({task_type!r}): both {_name(known.function)} and {_name(function)} "
                "claim this type"
            )
        self._handlers[task_type] = Handler(
            task_type, function, inspect.iscoroutinefunction(function), prepare, queue
        )

    def get(self, task_type: str) -> Handler | None:
        return self._handlers.get(task_type)

    def problems(self) -> list[str]:
        """Return what is wrong with handlers that only now can be looked at, for people."""
        problems = []
        for handler in self._handlers.values():
            try:
                handler.prepare()
            except Exception as error:  # noqa: BLE001 - user code: annotations may raise anything
                problems.append(f"@task({handler.task_type!r}): {_name(handler.function)}: {error}")
        return problems

    def task_types(self) -> list[str]:
        return sorted(self._handlers)


HANDLERS = Registry()
"""What `@task` fills."""


def load(modules: Sequence[str]) -> list[str]:
    """Import the modules, which fill `HANDLERS`; returns what went wrong, for people."""
    problems = []
    for module in modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - user code, which may raise anything
            problems.append(f"--handlers {module}: cannot be imported: {_explain(error)}")
    problems += HANDLERS.problems()
    if not problems and not HANDLERS.task_types():
        problems.append(
            f"--handlers {','.join(modules)}: no function there is decorated with @task"
        )
    return problems


def _explain(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    user_frames = [
        frame
        for frame in frames
        if frame.filename not in _OURS and not frame.filename.startswith("<frozen importlib")
    ]
    # The decorator's own frames say nothing; where the module itself is missing there are none at
    # all.
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
