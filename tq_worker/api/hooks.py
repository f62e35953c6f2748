"""Hooks that a program runs around every attempt in its handler processes, of any task type."""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tq_worker.api.context import TaskContext, current_task

_logger = logging.getLogger(__name__)


class Outcome(enum.StrEnum):
    """How an attempt ended in its process; the brokers may still decide otherwise."""

    COMPLETED = "completed"
    FAILED = "failed"
    RELEASED = "released"
    """Given back and not counted: its worker leaves, or its task was cancelled, for example."""


Hook = Callable[..., object]
AnyHook = TypeVar("AnyHook", bound=Hook)


@dataclass(slots=True)
class Hooks:
    """The registered hooks, in order of registration."""

    before_task: list[Hook] = field(default_factory=list)
    after_task: list[Hook] = field(default_factory=list)
    on_failure: list[Hook] = field(default_factory=list)
    on_dead: list[Hook] = field(default_factory=list)


HOOKS = Hooks()
"""Filled by the decorators below, as handler modules are imported."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an attempt, as hooks see it."""

    context: TaskContext
    outcome: Outcome
    error: BaseException | None
    """Set only if the attempt failed."""
    dead: bool
    """The task failed for good: no attempt follows."""


def before_task(hook: AnyHook) -> AnyHook:
    """Have ``hook(context)`` called before each handler.

    Any hook may be async. Hooks run on the handler's event loop, or in its thread if the handler is
    sync, and their time counts as the attempt's. An exception of a hook is logged and changes
    nothing. If the process is killed, or ends by itself, the hooks for the end of its running
    attempts are not called.
    """
    return _registered(HOOKS.before_task, hook, 1)


def after_task(hook: AnyHook) -> AnyHook:
    """Have ``hook(context, outcome)`` called after each started attempt, before its report.

    ``outcome`` is an `Outcome`, which is a str. The hooks for failures are called first.
    """
    return _registered(HOOKS.after_task, hook, 2)


def on_failure(hook: AnyHook) -> AnyHook:
    """Have ``hook(context, error)`` called after each failed attempt.

    ``error`` is the exception that the handler raised, a TimeoutError after the task's timeout, or
    a PermanentError if the result does not fit.
    """
    return _registered(HOOKS.on_failure, hook, 2)


def on_dead(hook: AnyHook) -> AnyHook:
    """Have ``hook(context, error)`` called after a failure that no attempt follows.

    The attempt was the last one, or ended in a PermanentError. A task may also become a dead letter
    without this hook: with its process, with its lease, or past its expire_at. `tq-admin
    dead-letters list` lists every dead letter.
    """
    return _registered(HOOKS.on_dead, hook, 2)


def calls_of(ended: Ended) -> list[tuple[Hook, Sequence[object]]]:
    """The hooks to call after an attempt, with their arguments."""
    about: Sequence[object] = (ended.context, ended.error)
    calls: list[tuple[Hook, Sequence[object]]] = []
    if ended.outcome is Outcome.FAILED:
        calls += [(hook, about) for hook in HOOKS.on_failure]
        calls += [(hook, about) for hook in HOOKS.on_dead if ended.dead]
    return calls + [(hook, (ended.context, ended.outcome)) for hook in HOOKS.after_task]


async def call_async(calls: Sequence[tuple[Hook, Sequence[object]]]) -> None:
    """Call hooks on the event loop; raises nothing but a cancellation."""
    for hook, arguments in calls:
        try:
            returned = hook(*arguments)
            if inspect.isawaitable(returned):
                await returned
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _told_to_stop():
                raise
            _broken(hook, error)


def _told_to_stop() -> bool:
    running = current_task()
    return running is not None and running.cancelled.is_set()


def call_in_thread(
    calls: Sequence[tuple[Hook, Sequence[object]]], loop: asyncio.AbstractEventLoop
) -> None:
    """Call hooks in a handler's thread, the async ones on ``loop``; raises nothing."""
    for hook, arguments in calls:
        try:
            returned = hook(*arguments)
            if inspect.isawaitable(returned):
                asyncio.run_coroutine_threadsafe(_awaited(returned), loop).result()
        except BaseException as error:  # noqa: BLE001 - user code, as above
            _broken(hook, error)


async def _awaited(awaitable: Awaitable[Any]) -> None:
    await awaitable


def _broken(hook: Hook, error: BaseException) -> None:
    name = getattr(hook, "__qualname__", repr(hook))
    try:
        _logger.error("hook failed", exc_info=error, extra={"hook": name})
    except BaseException:  # noqa: BLE001 - user code: what it raised cannot even be printed
        _logger.error("hook failed, and what it raised cannot be told", extra={"hook": name})  # noqa: TRY400 - as it says


def _registered(hooks: list[Hook], hook: AnyHook, takes: int) -> AnyHook:
    names = ("context", "outcome or error")[:takes]
    try:
        inspect.signature(hook).bind(*names)
    except TypeError as error:
        name = getattr(hook, "__qualname__", repr(hook))
        raise TypeError(f"the hook {name} must take ({', '.join(names)}): {error}") from None
    hooks.append(hook)
    return hook
