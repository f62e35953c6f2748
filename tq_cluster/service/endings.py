"""When a call is over, and what is left of it then: nothing."""

from __future__ import annotations

import gc
from collections.abc import Callable

import grpc.aio

Context = grpc.aio.ServicerContext[bytes, bytes]


def _nothing() -> None:
    pass


def at_end(context: Context, act: Callable[[], None] = _nothing) -> None:
    """Act once the caller has all of its answer, or is gone; let go of the call then."""

    def ended(context: object) -> None:
        act()
        _break_circle(context)

    context.add_done_callback(ended)  # type: ignore[arg-type]  # a generic callback's type


def _break_circle(context: object) -> None:
    """Have a call freed at once, not by the garbage collector.

    What gRPC 1.85 keeps of a call (`server.pyx.pxi`) holds the callbacks of its end and the error
    that aborted it. Each callback holds the context, and so do the frames that the error came
    through; the context holds what is kept of the call. A call that waited has outlived the
    collector's young generations by then, and a look at the oldest one, with thousands of calls
    that wait, holds the event loop for longer than anything may. gRPC has no other way to them.
    """
    for state in gc.get_referents(context):
        if type(state).__name__ == "RPCState":
            for kept in gc.get_referents(state):
                if type(kept) is list:
                    kept.clear()
                elif isinstance(kept, grpc.aio.AbortError):
                    kept.__traceback__ = kept.__context__ = None
