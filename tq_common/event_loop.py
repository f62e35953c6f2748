"""An event loop on which gRPC takes all events that are ready in one turn.

gRPC's thread writes one byte into a socket pair for each event, and the loop reads one byte in each
turn (``PollerCompletionQueue`` in grpcio's ``completion_queue.pyx.pxi``; so in 1.85). A socket pair
holds 278 such bytes. After a burst the loop makes as many turns for nothing; and while the pair is
full, gRPC's thread waits and delivers one event a turn, of the four or more that a call takes: at
750 turns a second, a call that arrives behind 200 others waits over a second.

For processes with one event loop: several would read from the same socket.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVarTuple, Unpack

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

Arguments = TypeVarTuple("Arguments")

_QUEUE: Final = "PollerCompletionQueue"


class EventLoop(asyncio.SelectorEventLoop):
    """The usual event loop, but for the bytes by which gRPC wakes it."""

    def add_reader(
        self,
        fd: FileDescriptorLike,
        callback: Callable[[Unpack[Arguments]], Any],
        *args: *Arguments,
    ) -> None:
        """Do as asyncio does; for gRPC's socket, first read the bytes that are in excess."""
        if isinstance(fd, socket.socket) and _is_grpc(callback):
            super().add_reader(fd, _take_all, fd, partial(callback, *args))
        else:
            super().add_reader(fd, callback, *args)


def _is_grpc(callback: Callable[..., Any]) -> bool:
    method = callback.func if isinstance(callback, partial) else callback
    return type(getattr(method, "__self__", None)).__name__ == _QUEUE


def _take_all(woken: socket.socket, handle_events: Callable[[], Any]) -> None:
    """Read all bytes but one, which ``handle_events`` reads before it handles all events.

    A byte is written after its event was queued, so the events of all these bytes are queued.
    """
    ready = bytearray(4)
    fcntl.ioctl(woken, termios.FIONREAD, ready)
    excess = int.from_bytes(ready, sys.byteorder) - 1
    if excess > 0:
        woken.recv(excess)
    handle_events()
