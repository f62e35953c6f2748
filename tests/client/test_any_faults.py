"""Under any fault of the brokers, the client creates each task once and answers every caller."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from tests.client.fake_broker import (
    FakeBroker,
    Step,
    answer,
    break_off,
    hang,
    lose_reply,
    redirect,
    refuse,
    serving,
)
from tq_client import AsyncClient, Reason, calls


def faults(draw: random.Random, addresses: str, count: int) -> list[Step]:
    """Draw what a broker does to its next calls; sooner or later it answers."""
    unavailable, exhausted = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
    choices = [
        lose_reply,
        break_off,
        hang,
        redirect(draw.choice(addresses.split(","))),
        refuse(Reason.NO_LEADER, unavailable),
        refuse(Reason.OUTCOME_UNKNOWN, unavailable, retry_after_s=0.01),
        refuse(Reason.OVERLOADED, exhausted, retry_after_s=0.01),
        answer,
    ]
    return draw.choices(choices, k=count)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
async def test_every_submit_is_answered_and_its_task_created_once(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "ATTEMPT_FIRST_S", 0.1)
    monkeypatch.setattr(calls, "ATTEMPT_MAX_S", 0.1)
    monkeypatch.setattr(calls, "PAUSE_MAX_S", 0.05)
    draw = random.Random(seed)
    brokers = [FakeBroker(), FakeBroker(), FakeBroker()]
    for broker in brokers[1:]:
        broker.submits = brokers[0].submits  # one cluster
    async with serving(*brokers) as addresses, AsyncClient(addresses, draw=draw) as client:
        for broker in brokers:
            broker.steps = faults(draw, addresses, 6)
            broker.leader = draw.choice(brokers).address

        async def submit_in_turn(caller: int) -> list[str]:
            names = [f"{caller}-{number}" for number in range(5)]
            return [await client.submit("mail", "send", task_id=name) for name in names]

        answered = await asyncio.gather(*(submit_in_turn(caller) for caller in range(20)))

    created = [
        result.task.task_id
        for response in brokers[0].submits.values()
        for result in response.results
    ]
    assert sorted(created) == sorted(name for names in answered for name in names)
    assert len(created) == 100
