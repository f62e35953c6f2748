"""The client for programs without an event loop."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from tq.v1.worker_service_pb2 import ClaimRequest, ClaimResponse
from tq_client.async_client import TIMEOUT_S, AsyncClient
from tq_client.calls import Answer
from tq_client.connections import FollowLeader
from tq_client.engine import Engine
from tq_common.addresses import listed

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[Client, _P], _T]:
    """Make a method that blocks until the asynchronous one returns."""

    @wraps(method)
    def call(client: Client, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        timeout_s: Any = kwargs.get("timeout_s")
        return client._run(lambda each: method(each, *args, **kwargs), timeout_s)  # noqa: SLF001  # its own

    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, _P], AsyncIterator[_T]],
) -> Callable[Concatenate[Client, _P], Iterator[_T]]:
    """Make a method that blocks for each item of the asynchronous iterator."""

    @wraps(method)
    def items(client: Client, /, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[_T]:
        return client._iterate(lambda each: method(each, *args, **kwargs))  # noqa: SLF001  # its own

    return items


class Client:
    """An `AsyncClient` on an event loop in a thread of its own.

    Its methods are those of `AsyncClient`, which documents them. They block, for little longer than
    their time limit at most, and any thread may call them. Concurrent submits of several threads
    share one RPC. ``with`` closes it.

    A process with a Client may fork, and both processes may go on using it. The parent repeats the
    calls that were in flight.
    """

    def __init__(
        self,
        addresses: str | Iterable[str] | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        follow_leader: FollowLeader = "auto",
    ) -> None:
        if addresses is not None:
            addresses = listed(addresses)
        self._timeout_s = timeout_s
        self._engine = Engine(
            partial(AsyncClient, addresses, timeout_s=timeout_s, follow_leader=follow_leader)
        )

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)  # absent where making it failed
        if engine is not None and engine.abandon():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every call in flight, in every thread; a second call does nothing."""
        self._engine.close()

    # `AsyncClient` documents each of these.
    submit = _blocking(AsyncClient.submit)
    submit_many = _blocking(AsyncClient.submit_many)
    submit_together = _blocking(AsyncClient.submit_together)
    get = _blocking(AsyncClient.get)
    wait = _blocking(AsyncClient.wait)
    cancel = _blocking(AsyncClient.cancel)
    list_tasks = _iterating(AsyncClient.list_tasks)

    queue_stats = _blocking(AsyncClient.queue_stats)
    list_queues = _iterating(AsyncClient.list_queues)
    configure_queue = _blocking(AsyncClient.configure_queue)
    delete_queue = _blocking(AsyncClient.delete_queue)
    purge_queue = _iterating(AsyncClient.purge_queue)
    stop_purge = _blocking(AsyncClient.stop_purge)
    dead_letters = _iterating(AsyncClient.dead_letters)
    redrive = _blocking(AsyncClient.redrive)
    redrive_queue = _iterating(AsyncClient.redrive_queue)
    delete_dead_letters = _blocking(AsyncClient.delete_dead_letters)
    clear_dead_letters = _iterating(AsyncClient.clear_dead_letters)

    list_workers = _blocking(AsyncClient.list_workers)
    server_info = _blocking(AsyncClient.server_info)
    cluster_status = _blocking(AsyncClient.cluster_status)
    transfer_leadership = _blocking(AsyncClient.transfer_leadership)
    verify_state = _blocking(AsyncClient.verify_state)
    replace_node = _blocking(AsyncClient.replace_node)

    def claim(
        self, request: ClaimRequest, *, timeout_s: float | None = None
    ) -> Answer[ClaimResponse]:
        """Claim tasks; the lease of each runs from the answer's ``sent_at_s``."""
        return self._run(
            lambda client: client.claim(request, timeout_s=timeout_s),
            request.wait.ToTimedelta().total_seconds() + (timeout_s or self._timeout_s),
        )

    heartbeat = _blocking(AsyncClient.heartbeat)
    report = _blocking(AsyncClient.report)

    def _run(
        self,
        call: Callable[[AsyncClient], Coroutine[Any, Any, _T]],
        timeout_s: float | None = None,
    ) -> _T:
        return self._engine.run(call, self._timeout_s if timeout_s is None else timeout_s)

    def _iterate(self, items: Callable[[AsyncClient], AsyncIterator[_T]]) -> Iterator[_T]:
        going: list[AsyncIterator[_T]] = []

        async def following(client: AsyncClient) -> _T | None:
            if not going:
                going.append(items(client))
            return await anext(going[0], None)

        while (item := self._run(following)) is not None:
            yield item
