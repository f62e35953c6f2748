"""Keeps clients usable when their process forks.

A child of a process that has a channel of gRPC's asyncio API open, used or not, cannot use gRPC:
its calls hang for ever, or it dies by SIGABRT (seen with grpcio 1.85, with fork support and
without). If all such channels are closed at the fork, and gRPC's threads have ended, the
child can. So a `Client`, which has its own event loop, closes its channels before a fork and opens
them again after it, in the parent and in the child. An `AsyncClient` cannot: its program's event
loop stands still during the fork. In a child of a process that has one open, every client raises
ForkedError at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Protocol
from weakref import WeakSet

from tq_client import errors, grpc_threads

if TYPE_CHECKING:
    from tq_client.calls import Caller


class Forkable(Protocol):
    """Something that closes its channels before a fork."""

    def before_fork(self) -> bool:
        """Close them; True if all are closed. Called in the thread that forks."""

    def after_fork_in_parent(self) -> None:
        """Open them again when they are needed."""

    def after_fork_in_child(self) -> None:
        """Start over, without the threads of the parent."""


_forkable: Final[WeakSet[Forkable]] = WeakSet()
_open: Final[WeakSet[Caller]] = WeakSet()
_resting: list[Forkable] = []
"""What rests while the process forks."""
_still_open = False
"""Whether a channel could not be closed before the fork."""
_inherited: Final[list[object]] = []
"""What the parent had open. Freeing it here would wait for threads that only the parent has."""
_unusable = ""
"""Why no client can work in this process; empty if they can."""


def closes_before(forkable: Forkable) -> None:
    """Have ``forkable`` close its channels before each fork from now on."""
    _forkable.add(forkable)


def opened(caller: Caller) -> None:
    """Note the open caller of a client on its program's event loop."""
    _open.add(caller)


def closed(caller: Caller) -> None:
    """Note that a caller's channels are closed, or that an engine closes them before each fork."""
    _open.discard(caller)


def keep(inherited: object) -> None:
    """Keep an object of the parent, so that it is never freed in this process."""
    _inherited.append(inherited)


def check() -> None:
    """Raise ForkedError in a process in which no client can work."""
    if _unusable:
        raise errors.ForkedError(_unusable)


def _before() -> None:
    global _still_open  # noqa: PLW0603  # what the hooks of one fork tell each other
    _resting[:] = list(_forkable)
    rested = [each.before_fork() for each in _resting]  # every one of them
    _still_open = not all(rested)
    if not _still_open and not any(each.dialled for each in _open):
        grpc_threads.await_end()


def _after_in_parent() -> None:
    resting, _resting[:] = list(_resting), []
    for each in resting:
        each.after_fork_in_parent()


def _after_in_child() -> None:
    global _unusable  # noqa: PLW0603  # of this process
    resting, _resting[:] = list(_resting), []
    dialled = [each for each in _open if each.dialled]
    _inherited.extend(dialled)
    if _still_open or dialled:
        _unusable = (
            f"process {os.getpid()} was forked from one that had an AsyncClient open, and gRPC"
            " works in no such child. Close the AsyncClient before the fork, or use a Client in the"
            " parent, or start the child as a new program (multiprocessing's spawn, subprocess)"
        )
    for each in resting:
        each.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
