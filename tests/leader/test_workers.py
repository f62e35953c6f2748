"""The workers that a leader has heard from."""

from __future__ import annotations

from tests.scopes import scope_of
from tq.v1 import worker_service_pb2 as pb
from tq_cluster.core.model.types import DEFAULT_NAMESPACE as HERE
from tq_cluster.core.model.types import FencingToken
from tq_cluster.core.reads.steps import Reader, Steps, in_one_go
from tq_cluster.core.rows.scope import Scope
from tq_cluster.leader.workers import (
    FORGOTTEN_S,
    PAGE_BYTES_MAX,
    QUEUES_NAMED_MAX,
    TYPES_A_WORKER_MAX,
    TYPES_NAMED_MAX,
    WORKERS_MAX,
    WorkerRegistry,
)
from tq_cluster.storage.memory import MemoryStore
from tq_common.limits import CLAIM_QUEUES_MAX, CLAIM_TYPES_MAX
from tq_common.names import QUEUE_NAME_CHARS_MAX, TASK_TYPE_CHARS_MAX


class Noted:
    """A registry on a clock that stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.registry = WorkerRegistry(lambda: self.now_s)

    def claim(self, worker_id: str, *tokens: int) -> None:
        with self.registry.claiming(HERE, pb.ClaimRequest(worker_id=worker_id, queues=["q"])):
            self.registry.granted(HERE, worker_id, [FencingToken(token) for token in tokens])

    def _listing(
        self, scope: Scope[Reader], request: pb.ListWorkersRequest, after: str
    ) -> Steps[pb.ListWorkersResponse]:
        return self.registry.listing(scope, request, after, WORKERS_MAX)

    def listed(self) -> dict[str, pb.WorkerInfo]:
        everybody = pb.ListWorkersRequest(page_size=WORKERS_MAX)
        view = MemoryStore().view()
        found: dict[str, pb.WorkerInfo] = {}
        after = ""
        while True:
            reply = in_one_go(
                scope_of(view),
                self._listing,
                everybody,
                after,
            )
            assert reply.ByteSize() < PAGE_BYTES_MAX + 100_000
            found |= {worker.worker_id: worker for worker in reply.workers}
            if not reply.next_page_token:
                return found
            after = reply.workers[-1].worker_id


def test_a_worker_that_falls_silent_is_listed_with_its_silence_and_then_forgotten() -> None:
    noted = Noted()
    noted.claim("gone")
    noted.now_s += 10
    noted.claim("here")

    assert noted.listed()["gone"].silence.ToMilliseconds() == 10_000
    noted.now_s += FORGOTTEN_S - 5

    assert list(noted.listed()) == ["here"]


def test_a_worker_that_waits_for_nothing_and_is_silent_for_half_a_lease_is_lost() -> None:
    noted = Noted()
    noted.claim("short")
    long = pb.ClaimRequest(worker_id="long", queues=["q"])
    long.lease.FromSeconds(200)
    with noted.registry.claiming(HERE, long):
        noted.now_s += 201
        assert not noted.listed()["long"].lost
    noted.claim("short")

    lost_after_s = []
    for _ in range(101):
        noted.now_s += 1
        lost_after_s.append([name for name, each in noted.listed().items() if each.lost])

    assert (lost_after_s[29], lost_after_s[30]) == ([], ["short"])
    assert (lost_after_s[99], lost_after_s[100]) == (["short"], ["long", "short"])


def test_a_worker_that_is_known_by_its_heartbeats_alone_is_not_taken_for_lost() -> None:
    noted = Noted()
    noted.registry.renewed(HERE, "busy", [FencingToken(1)])
    noted.now_s += 250

    assert not noted.listed()["busy"].lost


def test_the_types_that_a_worker_claims_are_listed() -> None:
    noted = Noted()
    for types in (["a", "b"], ["c"], ["a"], ["x" * (TASK_TYPE_CHARS_MAX + 1)]):
        claim = pb.ClaimRequest(worker_id="some", queues=["q"], types=types)
        with noted.registry.claiming(HERE, claim):
            pass
    noted.claim("all")

    listed = noted.listed()

    assert (list(listed["some"].types), listed["some"].any_type) == (["a", "b", "c"], False)
    assert (list(listed["all"].types), listed["all"].any_type) == ([], True)


def test_the_types_that_are_remembered_are_bounded() -> None:
    noted = Noted()
    workers = TYPES_NAMED_MAX // CLAIM_TYPES_MAX + 10
    for number in range(100):
        types = [f"{number}-{at}" for at in range(CLAIM_TYPES_MAX)]
        with noted.registry.claiming(
            HERE, pb.ClaimRequest(worker_id="w0", queues=["q"], types=types)
        ):
            pass
    assert len(noted.listed()["w0"].types) == TYPES_A_WORKER_MAX
    assert noted.listed()["w0"].any_type
    for number in range(workers):
        types = [f"{number}-{at}" for at in range(CLAIM_TYPES_MAX)]
        claim = pb.ClaimRequest(worker_id=f"w{number}", queues=["q"], types=types)
        with noted.registry.claiming(HERE, claim):
            pass

    listed = noted.listed()

    assert sum(len(each.types) for each in listed.values()) == TYPES_NAMED_MAX
    assert listed[f"w{workers - 1}"].any_type
    noted.registry.clear()
    noted.claim("next")
    assert len(noted.listed()) == 1


def test_only_leases_that_stand_are_counted() -> None:
    noted = Noted()
    noted.claim("w", 1, 2, 3)
    noted.registry.ended(FencingToken(1))
    noted.registry.ended(FencingToken(3))

    assert noted.listed()["w"].leases == 1
    assert noted.listed()["w"].claimed == 3


def test_nothing_is_kept_of_leases_that_have_ended() -> None:
    noted = Noted()
    noted.claim("w1", *range(100))
    noted.registry.renewed(HERE, "w2", map(FencingToken, range(50)))
    for token in range(100):
        noted.registry.ended(FencingToken(token))

    assert noted.registry.leases_noted() == 0
    assert [worker.leases for worker in noted.listed().values()] == [0, 0]


def test_a_worker_that_was_forgotten_still_has_its_leases_when_it_comes_back() -> None:
    noted = Noted()
    noted.claim("w", 1, 2)
    noted.now_s += FORGOTTEN_S + 1
    assert noted.listed() == {}

    noted.registry.renewed(HERE, "w", [FencingToken(1)])
    assert noted.listed()["w"].leases == 2


def test_what_a_claim_is_refused_for_is_not_remembered() -> None:
    noted = Noted()
    many = [f"q{number}" for number in range(CLAIM_QUEUES_MAX + 1)]
    for queues in (many, ["q" * (QUEUE_NAME_CHARS_MAX + 1)]):
        with noted.registry.claiming(HERE, pb.ClaimRequest(worker_id="w", queues=queues)):
            assert list(noted.listed()["w"].queues) == []


def test_a_lease_that_moves_to_another_worker_is_counted_there() -> None:
    noted = Noted()
    noted.claim("w1", 1)
    noted.claim("w2")

    noted.registry.renewed(HERE, "w2", [FencingToken(1)])

    assert [worker.leases for worker in noted.listed().values()] == [0, 1]


def test_a_claim_that_is_granted_again_counts_once() -> None:
    noted = Noted()
    noted.claim("w", 1)
    noted.claim("w", 1)

    assert noted.listed()["w"].claimed == 1


def test_the_workers_remembered_are_bounded_and_the_most_silent_go_first() -> None:
    noted = Noted()
    for number in range(WORKERS_MAX + 5):
        noted.claim(f"w{number}")

    assert len(noted.registry) == WORKERS_MAX
    assert "w4" not in noted.listed()
    assert "w5" in noted.listed()


def test_what_cannot_be_a_workers_id_is_not_noted() -> None:
    noted = Noted()
    noted.claim("")
    noted.claim("x" * 201)

    assert noted.listed() == {}


def test_what_a_worker_last_said_of_itself_stands_until_it_says_otherwise() -> None:
    noted = Noted()
    noted.registry.renewed(HERE, "w", [], pb.WorkerUsage(memory_bytes=7, cpu_cores=0.5))
    noted.registry.renewed(HERE, "w", [])
    noted.claim("mute")

    assert noted.listed()["w"].usage == pb.WorkerUsage(memory_bytes=7, cpu_cores=0.5)
    assert not noted.listed()["mute"].HasField("usage")


def test_what_a_heartbeat_says_of_its_worker_does_not_keep_the_heartbeat() -> None:
    noted = Noted()
    said = pb.WorkerUsage(memory_bytes=7, slots=3).SerializeToString()
    unknown = b"\xfa\x3f\x05other"  # field 1023
    request = pb.HeartbeatRequest(worker_id="w")
    request.usage.MergeFromString(said + unknown)

    noted.registry.renewed(HERE, "w", [], request.usage)

    kept = noted.registry._workers[HERE]["w"].usage
    assert kept is not None
    assert kept is not request.usage
    assert kept.SerializeToString() == said
    request.usage.memory_bytes = 0
    assert noted.listed()["w"].usage.memory_bytes == 7


def test_of_all_workers_together_so_many_names_of_queues_are_remembered() -> None:
    noted = Noted()
    names = [f"q{number}" for number in range(CLAIM_QUEUES_MAX)]

    def remembered() -> int:
        every = [each for some in noted.registry._workers.values() for each in some.values()]
        return sum(len(worker.queues) for worker in every)

    for number in range(2 * QUEUES_NAMED_MAX // CLAIM_QUEUES_MAX):
        with noted.registry.claiming(HERE, pb.ClaimRequest(worker_id=f"w{number}", queues=names)):
            pass
        if not number % 500:
            assert noted.registry._queues_named == remembered()
    assert remembered() == QUEUES_NAMED_MAX

    noted.now_s += FORGOTTEN_S + 1
    with noted.registry.claiming(HERE, pb.ClaimRequest(worker_id="late", queues=names)):
        assert remembered() == CLAIM_QUEUES_MAX


def test_many_workers_of_one_namespace_do_not_displace_anothers_few() -> None:
    noted = Noted()
    with noted.registry.claiming(7, pb.ClaimRequest(worker_id="w", queues=["q"])):
        pass
    for number in range(WORKERS_MAX + 5):
        noted.claim(f"w{number}")

    assert len(noted.registry) == WORKERS_MAX
    assert list(noted.registry._workers[7]) == ["w"]
    assert "w5" not in noted.listed()
    assert "w6" in noted.listed()


def test_a_lease_is_counted_for_the_worker_of_its_namespace_that_holds_it() -> None:
    noted = Noted()
    noted.claim("w", 1, 2)
    noted.registry.renewed(7, "w", [FencingToken(3)])
    noted.registry.ended(FencingToken(3))

    assert noted.listed()["w"].leases == 2
    assert noted.registry.leases_noted() == 2


def test_workers_of_every_namespace_are_forgotten() -> None:
    noted = Noted()
    noted.registry.renewed(7, "w", [])
    noted.claim("w")
    noted.now_s += FORGOTTEN_S + 1

    assert noted.listed() == {}
    assert len(noted.registry) == 0
    assert noted.registry._workers == {}
