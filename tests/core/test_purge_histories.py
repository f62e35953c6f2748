"""Random histories in which purges at once are under way all the time."""

from __future__ import annotations

import random
from typing import Final

import pytest

from tests.core.lone_queue import Claimed, LoneQueue, instant, replied, span, spec
from tq.v1 import queue_service_pb2, task_pb2, worker_service_pb2
from tq_cluster.core.model.operations import Continue, MakeDue

SEEDS: Final = 120
MOVES: Final = 60
STOPS: Final = 0.05
"""How often a purge may be stopped."""
WAITING: Final = ("BLOCKED", "SCHEDULED", "PENDING", "RETRYING")
Settings = queue_service_pb2.QueueSettings
Dependency = task_pb2.Dependency


class History:
    """One queue whose purges go on only now and then, and what each task was promised."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.queue = LoneQueue(by_type=self.draw.random() < 0.5)
        self.queue.configure(ordering=self.draw.choice([0, Settings.ORDERING_AGING]))
        self.names: list[str] = []
        self.held: list[Claimed] = []
        self.purged: set[str] = set()
        """Waited when a purge began."""
        self.met: set[str] = set()
        """What happened while a purge was under way."""

    def waiting(self) -> set[str]:
        return {name for name in self.names if self.queue.state(name) in WAITING}

    def submit(self) -> None:
        for _ in range(self.draw.randint(1, 30)):
            on = self.draw.sample(self.names, min(len(self.names), self.draw.choice([0, 0, 0, 1])))
            name = f"t{len(self.names)}"
            delay_ms = self.draw.choice([0, 0, 0, 40, 400])
            self.names += self.queue.submitted(
                spec(
                    task_id=name,
                    type=self.draw.choice(["a", "b"]),
                    priority=self.draw.choice([0, 0, 5]),
                    run_at=instant(self.queue.now_ms + delay_ms),
                    expire_at=self.draw.choice([None, instant(self.queue.now_ms + 60)]),
                    max_attempts=2,
                    retry_policy=task_pb2.RetryPolicy(initial_backoff=span(30), no_jitter=True),
                    depends_on=[
                        Dependency(
                            task_id=each,
                            condition=self.draw.choice(
                                [Dependency.CONDITION_COMPLETED, Dependency.CONDITION_ENDED]
                            ),
                        )
                        for each in on
                    ],
                )
            )

    def claim(self) -> None:
        types = self.draw.choice([(), ("a",)])
        wanted = {
            name
            for name in self.waiting() - self.purged
            if self.queue.state(name) == "PENDING"
            and (not types or self.queue.task(name).spec.type in types)
        }
        most = self.draw.randint(1, 4)
        outcome = self.queue.claim(most, types=types)
        found = list(replied(outcome, worker_service_pb2.ClaimResponse).tasks)
        names = {task.spec.task_id for task in found}
        assert names <= wanted, "a purged task was leased"
        late = {name for name in wanted if self.queue.state(name) == "FAILED"}
        assert len(found) == min(most, len(wanted - late)), "a task that waits was not found"
        self.held += found
        if found:
            self.met.add("claim")

    def report(self) -> None:
        if not self.held:
            return
        task = self.held.pop(self.draw.randrange(len(self.held)))
        kind = self.draw.choice(["complete", "fail", "fail for good", "release", "expire"])
        if kind == "complete":
            self.queue.complete(task)
        elif kind == "release":
            self.queue.release(task)
        elif kind == "expire":
            self.queue.expire(task)
        else:
            self.queue.fail(task, permanent=kind == "fail for good")
        self.met.add(kind)

    def redrive(self) -> None:
        self.queue.redrive(queue="default", max_tasks=2)

    def cancel(self) -> None:
        if self.names:
            self.queue.cancel(self.draw.choice(self.names))

    def purge(self) -> None:
        newly = self.waiting() - self.purged
        outcome = self.queue.purge(at_once=True)
        assert replied(outcome, queue_service_pb2.PurgeQueueResponse).cancelled == len(newly)
        self.purged |= newly

    def stop(self) -> None:
        left = self.waiting() & self.purged
        outcome = self.queue.purge(stop=True)
        assert replied(outcome, queue_service_pb2.PurgeQueueResponse).spared == len(left)
        self.purged -= left

    def pass_time(self) -> None:
        self.queue.now_ms += self.draw.choice([0, 1, 35, 100])
        self.queue.decide(MakeDue(tasks_max=3, caller=self.queue.caller))

    def go_on(self) -> None:
        self.queue.decide(Continue(items_max=self.draw.choice([1, 3]), caller=self.queue.caller))

    def move(self) -> None:
        moves = [self.submit, self.claim, self.claim, self.report, self.redrive, self.cancel]
        if self.draw.random() < STOPS:
            moves = [self.stop]
        self.draw.choice([*moves, self.purge, self.pass_time, self.go_on])()
        if self.queue.stats().purging:
            self.met.add("under way")

    def check(self) -> None:
        """No purged task has ended in anything but CANCELLED, and what is left counts right."""
        states = {name: self.queue.state(name) for name in self.purged}
        assert set(states.values()) <= {*WAITING, "CANCELLED"}
        left = sum(state != "CANCELLED" for state in states.values())
        assert self.queue.stats().purging == left


@pytest.mark.parametrize("part", range(4))
def test_what_a_purge_covers_is_cancelled_and_nothing_else_is_held_up(part: int) -> None:
    met: set[str] = set()
    for seed in range(part, SEEDS, 4):
        history = History(seed)
        for _ in range(MOVES):
            history.move()
            history.check()
        history.queue.go_on()
        assert {history.queue.state(name) for name in history.purged} <= {"CANCELLED"}, seed
        assert not history.queue.stats().purging
        met |= history.met
    assert met >= {"under way", "claim", "complete", "fail", "fail for good", "release", "expire"}
