"""A look through queues and workers: a slice at a time, of which each is passed on at once."""

from __future__ import annotations

from tests.core.lone_queue import LoneQueue, spec
from tq.v1 import worker_service_pb2
from tq_cluster.core.model.namespaces import ONLY_DEFAULT, Namespaces
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, TimestampMs
from tq_cluster.leader import sampler
from tq_cluster.leader.sampler import Sample, Sampler
from tq_cluster.leader.workers import WorkerRegistry

TWO = Namespaces({"shop": 7})


class Sampled:
    """A surveyor of a queue and of workers, and what it found."""

    def __init__(self, namespaces: Namespaces = ONLY_DEFAULT) -> None:
        self.queue = LoneQueue()
        self.now_s = 0.0
        self.workers = WorkerRegistry(lambda: self.now_s)
        self.found: list[Sample | None] = []
        self.sampler = Sampler(
            view=self.queue.store.view,
            namespaces=namespaces,
            workers=self.workers,
            leases=lambda: 3,
            now_ms=lambda: TimestampMs(self.queue.now_ms),
            now_s=lambda: self.now_s,
            found=self.found.append,
        )

    def look_through(self) -> list[Sample]:
        """Step until a sample is whole; its slices."""
        self.found.clear()
        while not self.found or (self.found[-1] is not None and not self.found[-1].workforce):
            self.sampler.step()
        return [each for each in self.found if each is not None]

    def claims(self, worker_id: str, *queues: str, namespace: int = DEFAULT_NAMESPACE) -> None:
        request = worker_service_pb2.ClaimRequest(worker_id=worker_id, queues=queues)
        with self.workers.claiming(namespace, request):
            pass


def test_each_slice_is_passed_on_and_no_survey_is_held_whole() -> None:
    sampled = Sampled()
    names = [f"q{n:03}" for n in range(2 * sampler.QUEUES_SLICE + 7)]
    sampled.queue.submitted(*[spec(queue=name) for name in names])
    sampled.claims("w", "q000", names[-1])

    slices = sampled.look_through()

    assert [len(each.depths) for each in slices] == [50, 50, 7]
    assert [depth.queue for each in slices for depth in each.depths] == names
    assert [each.workforce is None for each in slices] == [True, True, False]
    assert slices[0].queue_workers[0, "q000"] == slices[2].queue_workers[0, names[-1]] == 1
    whole = slices[-1].workforce
    assert whole is not None
    assert (whole.workers, whole.leases) == (1, 3)


def test_many_workers_are_looked_through_a_slice_at_a_time() -> None:
    sampled = Sampled()
    for n in range(3 * sampler.WORKERS_SLICE):
        sampled.claims(f"w{n}", "q")

    for _ in range(3):
        sampled.sampler.step()
        assert sampled.found == []
    [slice_] = sampled.look_through()

    assert slice_.workforce is not None
    assert slice_.workforce.workers == 3 * sampler.WORKERS_SLICE


def test_queues_that_workers_make_up_are_counted_up_to_a_limit() -> None:
    sampled = Sampled()
    for n in range(sampler.QUEUES_NAMED_MAX // 64 + 10):
        sampled.claims(f"w{n}", *[f"made-up-{n}-{k}" for k in range(64)])

    slices = sampled.look_through()

    assert len(slices[-1].queue_workers) < sampler.QUEUES_NAMED_MAX + 64


def test_the_queues_of_each_namespace_are_passed_on_as_that_namespaces() -> None:
    sampled = Sampled(TWO)
    shop = LoneQueue(store=sampled.queue.store, namespace=7)
    sampled.queue.submitted(spec(queue="mail"))
    shop.submitted(spec(queue="mail"), spec(queue="video"))
    sampled.claims("w", "mail")
    sampled.claims("w", "mail", "video", namespace=7)

    slices = sampled.look_through()

    found = [(each.namespace, [depth.queue for depth in each.depths]) for each in slices]
    assert found == [(0, ["mail"]), (7, ["mail", "video"])]
    assert slices[-1].queue_workers == {(0, "mail"): 1, (7, "mail"): 1, (7, "video"): 1}
    workforce = slices[-1].workforce
    assert workforce is not None
    assert workforce.workers == 2
