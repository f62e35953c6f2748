"""A client calls the leader at the address that brokers name, or only addresses it was given."""

from __future__ import annotations

import random

import pytest

from tests.client.fake_broker import FakeBroker, serving, until_reached
from tq_client import AsyncClient
from tq_client.connections import Connections


async def test_the_leader_is_called_itself() -> None:
    follower, leader = FakeBroker(), FakeBroker()
    async with serving(follower, leader):
        follower.leader = leader.leader = leader.address
        async with AsyncClient(follower.address) as client:
            await until_reached(client, leader)
            before = len(follower.calls)
            await client.queue_stats("mail")

    assert len(follower.calls) == before


async def test_nobody_is_called_who_was_not_given_where_that_is_wanted() -> None:
    follower, leader = FakeBroker(), FakeBroker()
    async with serving(follower, leader):
        follower.leader = leader.leader = leader.address
        async with AsyncClient(follower.address, follow_leader="never") as client:
            for _ in range(50):
                await client.queue_stats("mail")

    assert (len(follower.calls), len(leader.calls)) == (50, 0)


@pytest.mark.parametrize(
    ("given", "leader", "called"),
    [
        (["10.0.0.1:7001"], "10.0.0.2:7001", "10.0.0.2:7001"),
        (["127.0.0.1:7001"], "127.0.0.1:7002", "127.0.0.1:7002"),
        (["127.0.0.1:7001"], "10.0.0.2:7001", ""),
        (["localhost:7001", "[::1]:7002"], "tq2.internal:7001", ""),
        (["localhost:7001", "10.0.0.1:7001"], "10.0.0.2:7001", "10.0.0.2:7001"),
        (["LOCALHOST.:7001", "10.0.0.1:7001"], "localhost:7001", "LOCALHOST.:7001"),
        (["[0:0::1]:7001"], "[::1]:7001", "[0:0::1]:7001"),
        (["10.0.0.1:7001"], "no address", ""),
    ],
)
def test_behind_a_tunnel_the_leaders_own_address_is_not_called(
    given: list[str], leader: str, called: str
) -> None:
    connections = Connections(given, lambda: 0.0, random.Random(1))

    assert connections.learn(leader, 1)
    assert connections.leader == called
    assert not connections.learn(leader, 1)


def test_with_never_only_what_was_given_is_called() -> None:
    connections = Connections(["10.0.0.1:7001"], lambda: 0.0, random.Random(1), "never")

    connections.learn("10.0.0.2:7001", 1)
    assert connections.leader == ""
    connections.learn("10.0.0.1:7001", 2)
    assert connections.leader == "10.0.0.1:7001"
