"""Where no broker answers, every method says so in the time that it was given."""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from tests.client.fake_broker import Call, Context, FakeBroker, serving
from tq.v1.worker_service_pb2 import ClaimRequest, HeartbeatRequest, ReportRequest
from tq_client import AsyncClient, QueueSettings, task_spec
from tq_client.errors import TqError, UnavailableError

GIVEN_S = 0.3
CALLS: dict[str, Callable[[AsyncClient], Awaitable[Any] | AsyncIterator[Any]]] = {
    "cancel": lambda client: client.cancel("t"),
    "claim": lambda client: client.claim(ClaimRequest(worker_id="w", queues=["q"])),
    "clear_dead_letters": lambda client: client.clear_dead_letters("q"),
    "cluster_status": lambda client: client.cluster_status(),
    "configure_queue": lambda client: client.configure_queue("q", QueueSettings()),
    "dead_letters": lambda client: client.dead_letters(),
    "delete_dead_letters": lambda client: client.delete_dead_letters(["t"]),
    "delete_queue": lambda client: client.delete_queue("q"),
    "get": lambda client: client.get("t"),
    "heartbeat": lambda client: client.heartbeat(HeartbeatRequest(worker_id="w")),
    "list_queues": lambda client: client.list_queues(),
    "list_tasks": lambda client: client.list_tasks(),
    "list_workers": lambda client: client.list_workers(),
    "purge_queue": lambda client: client.purge_queue("q"),
    "stop_purge": lambda client: client.stop_purge("q"),
    "queue_stats": lambda client: client.queue_stats("q"),
    "redrive": lambda client: client.redrive(["t"]),
    "redrive_queue": lambda client: client.redrive_queue("q"),
    "replace_node": lambda client: client.replace_node("n1"),
    "report": lambda client: client.report(ReportRequest(worker_id="w")),
    "server_info": lambda client: client.server_info(),
    "submit": lambda client: client.submit("q", "t"),
    "submit_many": lambda client: client.submit_many([task_spec("q", "t")]),
    "submit_together": lambda client: client.submit_together([task_spec("q", "t")]),
    "transfer_leadership": lambda client: client.transfer_leadership(),
    "verify_state": lambda client: client.verify_state(),
    "wait": lambda client: client.wait("t"),
}


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Yield an address that accepts and never says a word, as a stopped broker's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


async def outcome(call: Awaitable[Any] | AsyncIterator[Any]) -> BaseException | None:
    """The error that a call ends with; of `submit_many` that of its one task."""
    try:
        returned = await (anext(call) if isinstance(call, AsyncIterator) else call)
    except TqError as error:
        return error
    return returned[0] if isinstance(returned, list) else None


@pytest.mark.slow
async def test_every_method_ends_with_the_error_that_nothing_was_applied(
    dead_address: str, silent_address: str
) -> None:
    for address in (dead_address, silent_address):
        async with AsyncClient(address, timeout_s=GIVEN_S) as client:
            outcomes = await asyncio.gather(*(outcome(call(client)) for call in CALLS.values()))
        for name, error in zip(CALLS, outcomes, strict=True):
            assert isinstance(error, UnavailableError), (name, error)
            assert address in str(error), name


def test_no_method_is_left_out() -> None:
    public = {
        name
        for name, _ in inspect.getmembers(AsyncClient, inspect.isfunction)
        if not name.startswith("_")
    }

    assert set(CALLS) == public - {"close"}


@pytest.mark.slow
async def test_an_error_names_everybody_who_was_asked_in_one_line(dead_address: str) -> None:
    async def break_off_in_words(broker: FakeBroker, call: Call, context: Context) -> Message:
        del broker, call
        await context.abort(grpc.StatusCode.UNAVAILABLE, "connection\nreset")
        raise AssertionError("abort raises")

    broker = FakeBroker(steps=[break_off_in_words] * 1_000)
    async with serving(broker) as address, AsyncClient([address, dead_address]) as client:
        with pytest.raises(UnavailableError) as error:
            await client.get("t1", timeout_s=1.0)

    assert re.search(f"{address}: .*UNAVAILABLE: connection reset", str(error.value))
    assert f"{dead_address}: " in str(error.value)
    assert "\n" not in str(error.value)
