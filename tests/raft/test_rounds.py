"""Rounds: who is woken when, and what an echo is worth."""

from __future__ import annotations

import asyncio

import pytest

from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import NotLeaderError
from tq_cluster.raft.rounds import Rounds

AT = AppliedAt(7, 2)


def waiting(rounds: Rounds) -> asyncio.Future[AppliedAt]:
    future: asyncio.Future[AppliedAt] = asyncio.get_running_loop().create_future()
    rounds.wait(future)
    return future


async def test_a_round_that_began_before_the_question_confirms_nothing() -> None:
    rounds = Rounds(["n2", "n3"], majority=2, keep_s=1.0)
    earlier = rounds.begin(0.0)
    question = waiting(rounds)

    rounds.echoed("n2", earlier)
    rounds.resolve(AT)

    assert not question.done()
    rounds.echoed("n2", rounds.begin(0.1))
    rounds.resolve(AT)
    assert question.result() == AT


async def test_a_majority_of_five_needs_two_others() -> None:
    rounds = Rounds(["n2", "n3", "n4", "n5"], majority=3, keep_s=1.0)
    question = waiting(rounds)
    number = rounds.begin(0.0)

    rounds.echoed("n2", number)
    rounds.echoed("n2", number)
    rounds.resolve(AT)
    assert not question.done()

    rounds.echoed("n5", number)
    rounds.resolve(AT)
    assert question.result() == AT


async def test_an_echo_of_an_old_round_does_not_undo_a_newer_one() -> None:
    rounds = Rounds(["n2", "n3"], majority=2, keep_s=1.0)
    first, second = rounds.begin(0.0), rounds.begin(0.1)

    rounds.echoed("n2", second)
    rounds.echoed("n2", first)

    assert rounds.confirmed() == second


async def test_an_echo_is_contact_as_of_when_its_round_began() -> None:
    """However late it comes: a leader that slept takes no old answer for a fresh one."""
    rounds = Rounds(["n2", "n3"], majority=2, keep_s=1.0)
    number = rounds.begin(5.0)

    assert rounds.echoed("n2", number) == 5.0
    rounds.begin(9.0)
    assert rounds.echoed("n3", number) is None, "too long ago to be contact at all"


async def test_a_lone_member_needs_no_echo() -> None:
    rounds = Rounds([], majority=1, keep_s=1.0)
    question = waiting(rounds)

    assert rounds.wanted
    rounds.begin(0.0)
    rounds.resolve(AT)

    assert question.result() == AT


async def test_who_waits_when_the_reign_ends_is_told() -> None:
    rounds = Rounds(["n2", "n3"], majority=2, keep_s=1.0)
    number = rounds.begin(0.0)
    question = waiting(rounds)
    rounds.echoed("n2", number)

    rounds.end_leadership("n3")

    with pytest.raises(NotLeaderError) as refusal:
        question.result()
    assert refusal.value.leader_id == "n3"
    assert rounds.confirmed() == 0, "echoes of one leadership count in no other"


async def test_one_round_serves_all_who_ask_before_it() -> None:
    rounds = Rounds(["n2", "n3"], majority=2, keep_s=1.0)
    questions = [waiting(rounds) for _ in range(10)]
    number = rounds.begin(0.0)

    assert not rounds.wanted
    assert rounds.under_way
    rounds.echoed("n3", number)
    rounds.resolve(AT)

    assert all(question.result() == AT for question in questions)
