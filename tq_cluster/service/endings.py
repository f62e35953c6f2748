"""The end of a call: nothing of it remains in memory."""

from __future__ import annotations

import gc
from collections.abc import Callable

import grpc.aio

Context = grpc.aio.ServicerContext[bytes, bytes]


def _nothing() -> None:
    pass


def at_end(context: Context, act: Callable[[], None] = _nothing) -> None:
    """Call ``act`` once the caller has the whole answer, or is gone; then free the call."""

    def ended(context: object) -> None:
        act()
        _break_circle(context)

    context.add_done_callback(ended)  # type: ignore[arg-type]  # a generic callback's type


def _break_circle(context: object) -> None:
    """Have a call freed at once, not by the garbage collector.

    gRPC 1.85 keeps a state for each call (`server.pyx.pxi`) that holds the callbacks of its end and
    the error that aborted it. Each callback holds the context, and so do the frames that the error
    came through; the context holds the state. A call that waited has outlived the collector's young
    generations by then. Collecting the oldest one, with thousands of waiting calls, would hold the
    event loop too long. gRPC offers no other access to these objects.
    """
    for state in gc.get_referents(context):
        if type(state).__name__ == "RPCState":
            for kept in gc.get_referents(state):
                if type(kept) is list:
                    kept.clear()
                elif isinstance(kept, grpc.aio.AbortError):
                    kept.__traceback__ = kept.__context__ = None
