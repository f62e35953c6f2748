"""A restore and a recovery end the leases of every namespace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.lone_queue import LoneQueue, spec
from tq.internal.v1 import backup_pb2
from tq_cluster.offline import recovering, restoring
from tq_cluster.storage.store import Store


class Both:
    """A queue in the default namespace and one in another, with a task that runs in each."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.queues = [LoneQueue(store=store), LoneQueue(store=store, namespace=7)]
        for queue in self.queues:
            queue.submitted(spec(task_id=f"of-{queue.namespace}"))
            queue.claimed()
        store.commit()
        self.now_ms = self.queues[0].now_ms

    def states(self) -> list[str]:
        return [queue.state(f"of-{queue.namespace}") for queue in self.queues]

    def paused(self) -> list[bool]:
        return [queue.stats().settings.paused for queue in self.queues]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    store = Store(tmp_path)
    yield Both(store)
    store.close()


def test_a_recovery_makes_dead_letters_of_what_ran_in_any_namespace(both: Both) -> None:
    assert recovering._quarantine(both.store, both.now_ms) == ["of-0", "of-7"]

    assert both.states() == ["FAILED", "FAILED"]


def test_a_recovery_pauses_the_queues_of_every_namespace(both: Both) -> None:
    recovering._pause(both.store, both.now_ms)

    assert both.paused() == [True, True]


def test_a_restore_gives_back_what_ran_in_any_namespace(both: Both) -> None:
    header = backup_pb2.BackupHeader(log_time_ms=both.now_ms, made_at_ms=both.now_ms)
    restoring._begin_anew(both.store, header)

    assert both.states() == ["PENDING", "PENDING"]
