"""Which of those who wait for tasks a new one wakes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import pairwise
from typing import Self

import pytest

from tests.leader.bench import until
from tq.v1 import task_pb2, worker_service_pb2
from tq_cluster.core.kernel.ready_order import Appetite, type_digest
from tq_cluster.core.model.operations import ANY_TYPE, Caller, Claim, Ready
from tq_cluster.core.model.types import DEFAULT_NAMESPACE
from tq_cluster.leader.claimants import LOOKS_MAX, PLACES, Claimant, Claimants


class Hall:
    """Claimants of queue "mail", unless it is said otherwise."""

    def __init__(self) -> None:
        self.all = Claimants()
        self.stack = ExitStack()

    def join(
        self,
        types: Iterable[str] = (),
        *,
        but: Iterable[str] = (),
        most: int = 1,
        queues: Iterable[str] = ("mail",),
        namespace: int = DEFAULT_NAMESPACE,
    ) -> Claimant:
        request = worker_service_pb2.ClaimRequest(
            worker_id="w", queues=queues, max_tasks=most, types=types, except_types=but
        )
        operation = Claim(caller=Caller(namespace=namespace), request=request)
        return self.stack.enter_context(self.all.join(operation))

    def arrive(self, pending: int | None = None, /, **types: int) -> None:
        """Let so many tasks of each type become ready in queue "mail"."""
        by_type = {type_digest(name): count for name, count in types.items()}
        every = sum(types.values()) if pending is None else pending
        self.all.wake(Ready(DEFAULT_NAMESPACE, "mail", by_type, every))

    async def told(self) -> None:
        """Let the loop turn until everybody is woken who is to be."""
        await until(lambda: not self.all._wakes)

    def looked(self, claimant: Claimant, letters: int) -> None:
        """Have it looked, and taken so many letters."""
        letter = task_pb2.TaskSpec(queue="mail", type="letter")
        self.all.looked(claimant, [letter] * letters)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()
        assert len(self.all) == 0
        left = self.all._halls, self.all._naming, self.all._lines
        assert left == ({}, {}, {}), "something was left behind"


def woken(*claimants: Claimant) -> list[bool]:
    return [each.woken for each in claimants]


def test_those_who_take_a_type_are_woken_in_the_order_they_came_whatever_else_they_take() -> None:
    with Hall() as hall:
        other = hall.join(["sms"])
        typed = hall.join(["letter", "parcel"])
        plain = hall.join()
        rest = hall.join(but=["sms"])
        spares = hall.join(but=["letter"])

        hall.arrive(letter=1)
        assert woken(other, typed, plain, rest, spares) == [False, True, False, False, False]
        hall.arrive(letter=2)
        assert woken(other, typed, plain, rest, spares) == [False, True, True, True, False]
        hall.arrive(sms=5)
        assert woken(other, typed, plain, rest, spares) == [True, True, True, True, True]


def test_no_more_are_woken_than_there_are_tasks_for_them() -> None:
    with Hall() as hall:
        waiting = [hall.join() for _ in range(10)]
        hall.arrive(letter=3)
        assert sum(woken(*waiting)) == 3
        # Of four that came two are another's already.
        hall.arrive(2, letter=4)
        assert sum(woken(*waiting)) == 5


def test_one_who_asks_for_many_is_woken_for_many() -> None:
    with Hall() as hall:
        many, one, idle = hall.join(most=5), hall.join(), hall.join()
        hall.arrive(letter=6)
        assert woken(many, one, idle) == [True, True, False]


def test_a_thousand_who_wait_for_another_type_are_not_looked_at() -> None:
    with Hall() as hall:
        waiting = [hall.join([f"limited-{n}"]) for n in range(500)]
        waiting += [hall.join(but=["letter"]) for _ in range(500)]
        for _ in range(2_000):
            hall.arrive(letter=1)
        assert not any(woken(*waiting))


async def test_a_thousand_appetites_cost_a_task_no_more_than_a_look_at_those_that_leave_it_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0
    takes = Appetite.takes

    def counting(self: Appetite, digest: int) -> bool:
        nonlocal asked
        asked += 1
        return takes(self, digest)

    with Hall() as hall:
        monkeypatch.setattr(Appetite, "takes", counting)
        rest = [hall.join(but=[f"t{n}", f"t{n + 1}"]) for n in range(500)]
        named = [hall.join([f"t{n}", "x"]) for n in range(500)]
        hall.arrive(x=300)
        await hall.told()
        assert sum(woken(*rest)) == 300
        hall.arrive(x=300)
        await hall.told()
        assert (sum(woken(*rest)), sum(woken(*named))) == (500, 100)
        hall.arrive(**{f"t{n}": 1 for n in range(500)})
        await hall.told()
        assert sum(woken(*named)) == 500
    assert asked < 700


def test_another_queue_wakes_nobody() -> None:
    with Hall() as hall:
        elsewhere = hall.join(queues=["video"])
        both = hall.join(queues=["video", "mail", "video"])
        hall.arrive(letter=2)
        assert woken(elsewhere, both) == [False, True]


async def test_what_happens_between_the_look_and_the_wait_is_not_missed() -> None:
    with Hall() as hall:
        claimant = hall.join()
        hall.arrive(letter=1)
        assert await hall.all.wait(claimant, 0.001)
        assert not await hall.all.wait(claimant, 0.001)


async def test_one_who_was_woken_and_found_nothing_keeps_its_place() -> None:
    with Hall() as hall:
        first, second, third = hall.join(), hall.join(), hall.join()
        hall.arrive(letter=2)
        for each in (first, second):
            assert await hall.all.wait(each, 1)
        hall.looked(second, 1)
        hall.looked(first, 1)

        hall.arrive(letter=1)
        assert woken(first, second, third) == [True, False, False]


async def test_one_who_looks_is_woken_only_for_what_nobody_takes_who_waits() -> None:
    with Hall() as hall:
        looks, waits, another = hall.join(), hall.join(), hall.join(["parcel"])
        waiting = [asyncio.create_task(hall.all.wait(each, 5)) for each in (waits, another)]
        await asyncio.sleep(0)

        hall.arrive(letter=1)
        assert woken(looks, waits, another) == [False, True, False]
        hall.arrive(letter=1)
        assert woken(looks, waits, another) == [True, True, False]
        hall.arrive(parcel=1)
        assert await asyncio.gather(*waiting) == [True, True]


def test_who_leaves_without_looking_passes_the_wake_on() -> None:
    with Hall() as hall, ExitStack() as leaving:
        request = worker_service_pb2.ClaimRequest(worker_id="w", queues=["mail"], max_tasks=3)
        leaving.enter_context(hall.all.join(Claim(request=request)))
        later = [hall.join() for _ in range(4)]
        hall.arrive(letter=3)
        assert not any(woken(*later))

        leaving.close()

        assert woken(*later) == [True, True, True, False]


async def test_what_a_look_leaves_is_passed_on_and_what_it_takes_is_not() -> None:
    with Hall() as hall:
        first = hall.join(most=5)
        later = [hall.join() for _ in range(5)]
        hall.arrive(letter=5)
        assert await hall.all.wait(first, 1)

        hall.looked(first, 3)

        assert woken(*later) == [True, True, False, False, False]


async def test_one_who_took_something_else_passes_on_what_it_was_woken_for() -> None:
    with Hall() as hall:
        both, parcels = hall.join(), hall.join(["parcel"])
        hall.arrive(parcel=1, letter=1)
        assert woken(both, parcels) == [True, False]
        assert await hall.all.wait(both, 1)

        hall.looked(both, 1)  # a letter, the more urgent one

        assert parcels.woken


async def test_a_look_in_vain_is_passed_on_so_often_and_no_more() -> None:
    with Hall() as hall:
        waiting = [hall.join() for _ in range(10)]
        hall.arrive(letter=1)
        looks = 0
        while (claimant := next((each for each in waiting if each.woken), None)) is not None:
            assert await hall.all.wait(claimant, 1)
            hall.looked(claimant, 0)
            looks += 1
        assert looks == LOOKS_MAX
        assert not any(woken(*waiting))


def test_everybody_of_the_queue_is_woken_if_the_types_are_too_many_to_name() -> None:
    with Hall() as hall:
        here, there = [hall.join(), hall.join(["a"])], hall.join(queues=["video"])
        hall.all.wake(Ready(DEFAULT_NAMESPACE, "mail", {ANY_TYPE: 1}, 1))
        assert woken(*here, there) == [True, True, False]
        hall.all.wake_all()
        assert there.woken


async def test_claims_of_very_many_queues_and_types_are_woken_over_several_turns() -> None:
    with Hall() as hall:
        queues, types = ["mail", *(f"q{n}" for n in range(63))], [f"t{n}" for n in range(62)]

        def join(number: int) -> Claimant:
            return hall.join(["letter", f"own-{number}", *types], queues=queues)

        wide = [join(number) for number in range(200)]
        hall.arrive(letter=200)
        turns = [sum(woken(*wide))]
        while turns[-1] < len(wide):
            await asyncio.sleep(0)
            turns.append(sum(woken(*wide)))
        # Each has 128 queues and types, and is the first of up to 200.
        assert max(later - earlier for earlier, later in pairwise([0, *turns])) <= PLACES // 128
        assert len(turns) > 8

        wide = [join(number) for number in range(100)]
        hall.all.wake_all()
        assert sum(woken(*wide)) <= 34
        await until(lambda: all(woken(*wide)))


def test_who_waits_for_the_same_as_another_changes_nothing_but_their_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many queues and types they name."""
    with Hall() as hall:
        queues, types = [f"q{n}" for n in range(64)], [f"t{n}" for n in range(64)]
        hall.join(types, queues=queues)

        def changed(_line: object) -> None:
            raise AssertionError

        with monkeypatch.context() as patch:
            patch.setattr(hall.all, "_clear_away", changed)
            patch.setattr("tq_cluster.leader.claimants._Hall", changed)
            second = hall.join(types, queues=queues)
            hall.all._move(second, looks=False)
            hall.all._unpark(second)


async def test_a_task_wakes_no_claim_of_another_namespace() -> None:
    with Hall() as hall:
        elsewhere, here = hall.join(namespace=7), hall.join()
        typed_elsewhere = hall.join(["letter"], namespace=7)
        hall.arrive(letter=5)
        await hall.told()

        assert here.woken
        assert not elsewhere.woken
        assert not typed_elsewhere.woken
