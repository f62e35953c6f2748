"""A closed client has left nothing behind and no caller waiting."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.client.fake_broker import FakeBroker, hang, serving
from tq.v1.worker_service_pb2 import ClaimRequest
from tq_client import AsyncClient, Client
from tq_client.errors import OutcomeUnknownError, UnavailableError


async def test_closing_tells_each_submit_whether_it_may_have_been_applied() -> None:
    broker = FakeBroker(steps=[hang])
    async with serving(broker) as addresses:
        client = AsyncClient(addresses)
        sent = asyncio.create_task(client.submit("mail", "send"))
        await broker.arrived.wait()
        unsent = asyncio.create_task(client.submit("mail", "send"))
        await asyncio.sleep(0)
        await client.close()

        with pytest.raises(OutcomeUnknownError):
            await sent
        with pytest.raises(UnavailableError):
            await unsent


async def test_closing_ends_a_long_poll() -> None:
    broker = FakeBroker(steps=[hang])
    async with serving(broker) as addresses:
        client = AsyncClient(addresses)
        claim = asyncio.create_task(client.claim(ClaimRequest(worker_id="w1")))
        await broker.arrived.wait()
        await client.close()

        with pytest.raises(OutcomeUnknownError):
            await claim


async def test_closing_ends_a_call_that_looks_for_a_leader(dead_address: str) -> None:
    client = AsyncClient(dead_address)
    call = asyncio.create_task(client.get("t1"))
    await asyncio.sleep(0)

    await client.close()

    with pytest.raises(UnavailableError):
        await call


async def test_a_closed_client_leaves_no_task_behind() -> None:
    broker = FakeBroker(steps=[hang])
    async with serving(broker) as addresses:
        before = asyncio.all_tasks()
        client = AsyncClient(addresses)
        submits = [asyncio.create_task(client.submit("mail", "send")) for _ in range(10)]
        await broker.arrived.wait()
        await client.close()
        await asyncio.wait(submits)

        # The broker's own handler of the call that hangs is cut off, but in its own time.
        left = asyncio.all_tasks() - before - set(submits)
        assert [task for task in left if task.get_name().startswith("tq-")] == []


async def test_a_closed_client_refuses_calls() -> None:
    broker = FakeBroker()
    async with serving(broker) as addresses:
        client = AsyncClient(addresses)
        await client.close()
        await client.close()

        with pytest.raises(UnavailableError, match="closed"):
            await client.submit("mail", "send")
        with pytest.raises(UnavailableError, match="closed"):
            await client.get("t1")

    assert not broker.calls


async def test_a_cancelled_call_is_cancelled_and_not_failed() -> None:
    broker = FakeBroker(steps=[hang])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        call = asyncio.create_task(client.get("t1"))
        await broker.arrived.wait()
        call.cancel()

        with pytest.raises(asyncio.CancelledError):
            await call


async def test_closing_the_blocking_client_ends_the_calls_of_other_threads() -> None:
    broker = FakeBroker(steps=[hang])
    async with serving(broker) as addresses:
        client = await asyncio.to_thread(Client, addresses)
        call = asyncio.create_task(asyncio.to_thread(client.submit, "mail", "send"))
        await broker.arrived.wait()
        await asyncio.to_thread(client.close)

        with pytest.raises(OutcomeUnknownError):
            await call
        with pytest.raises(UnavailableError, match="closed"):
            await asyncio.to_thread(client.get, "t1")
        await asyncio.to_thread(client.close)
    assert "tq-client" not in {thread.name for thread in threading.enumerate()}
