"""The sweep leaves no RPC out, and breaks no bound in silence."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from google.protobuf.descriptor import MethodDescriptor

from benchmarks.sweep import services, wire
from benchmarks.sweep.__main__ import cases
from benchmarks.sweep.ground import MIB
from benchmarks.sweep.measure import Measured, bound_s
from tests.service.fakes import cluster_of
from tq.v1 import options_pb2, task_service_pb2, worker_service_pb2

METHODS = {services.path_of(method): method for method in services.methods()}
CASES = list(cases())


def measured(**fields: object) -> Measured:
    """A row of a call that did nothing out of the ordinary, but for what is said."""
    chosen: dict[str, object] = {
        "rpc": "TaskService/Submit",
        "shape": "one",
        "legal": True,
        "via": "leader",
        "together": 1,
        "sent_bytes": 100,
    }
    return Measured(**(chosen | fields))  # type: ignore[arg-type]  # as the test says


@pytest.mark.parametrize("path", METHODS)
def test_every_rpc_is_swept_with_legal_requests_and_with_others(path: str) -> None:
    kinds = Counter(case.legal for case in CASES if case.path == path)

    assert kinds[True] >= 1, f"add a shape for {path} to benchmarks/sweep/shapes.py"
    assert kinds[False] >= 4


def test_a_case_is_for_an_rpc_that_exists_and_has_a_name_of_its_own() -> None:
    names = Counter((case.path, case.name) for case in CASES)

    assert {path for path, _ in names} == METHODS.keys()
    assert [name for name, count in names.items() if count > 1] == []


def test_requests_nobody_means_are_as_large_as_the_wire_and_as_the_method_takes() -> None:
    sizes = {case.size for case in CASES if case.path == "/tq.v1.TaskService/ListTasks"}

    policy = METHODS["/tq.v1.TaskService/ListTasks"].GetOptions().Extensions[options_pb2.policy]
    assert sizes == {None, policy.request_bytes_max}


async def test_the_sweep_knows_every_service_that_a_broker_serves() -> None:
    async with cluster_of("n1") as cluster:
        served = {
            f"/{servicer.name}/{method.name}"
            for servicer in cluster["n1"].service.servicers
            for method in servicer.methods()
        }
        await asyncio.sleep(0)

    own = {path for path in METHODS if path.startswith("/tq.")}
    assert served == own
    assert any(path.startswith("/grpc.health") for path in METHODS)
    assert any(path.startswith("/grpc.reflection") for path in METHODS)


@pytest.mark.parametrize("method", [METHODS[path] for path in METHODS], ids=list(METHODS))
def test_a_request_that_nobody_means_is_as_large_as_asked_for(method: MethodDescriptor) -> None:
    for name, make in wire.shapes(method.input_type):
        size = len(make(100_000))
        assert 99_900 <= size <= 100_000, name


def test_a_request_that_nobody_means_has_what_its_name_says() -> None:
    made = dict(wire.shapes(task_service_pb2.SubmitRequest.DESCRIPTOR))
    submit = task_service_pb2.SubmitRequest.FromString(made["empty tasks"](1_000))
    labelled = task_service_pb2.SubmitRequest.FromString(made["tasks: different labels"](1_000))
    made = dict(wire.shapes(task_service_pb2.ListTasksRequest.DESCRIPTOR))
    listed = task_service_pb2.ListTasksRequest.FromString(made["states, packed"](1_000))
    made = dict(wire.shapes(worker_service_pb2.ReportRequest.DESCRIPTOR))
    nested = made["reports: complete: empty submit"](1_000)
    report = worker_service_pb2.ReportRequest.FromString(nested)

    assert len(submit.tasks) == 500
    assert len(labelled.tasks) == 1
    assert len(labelled.tasks[0].labels) == 90
    assert len(listed.states) > 900
    assert len(report.reports[0].complete.submit) > 450


def test_the_bound_grows_with_the_call_beyond_its_first_mib() -> None:
    assert bound_s(100) == bound_s(MIB) == pytest.approx(0.020)
    assert bound_s(10 * MIB) == pytest.approx(0.065)
    assert measured(answered_bytes=3 * MIB).bound_s == pytest.approx(0.030)


def test_what_breaks_a_bound_is_named() -> None:
    quiet = measured(leader_wall_s=0.5, leader_cpu_s=0.019, follower_cpu_s=0.001)
    held = measured(leader_cpu_s=0.041)
    deposed = measured(terms=2)
    asked_to = measured(terms=1, moves_leader=True)
    dead = measured(ended=["n2 (exit code 70)"])
    large = measured(anonymous_after=600_000_000)

    assert quiet.faults(1.0, wall=False) == []
    assert quiet.faults(1.0, wall=True) == ["leader held 500 ms, bound 20"]
    assert held.faults(2.0, wall=False) == ["leader held 41 ms, bound 40"]
    assert held.faults(2.1, wall=False) == []
    assert deposed.faults(1.0, wall=False) == ["2 terms"]
    assert asked_to.faults(1.0, wall=False) == []
    assert dead.faults(1.0, wall=False) == ["n2 (exit code 70) ended"]
    assert large.faults(1.0, wall=False) == ["600 MB, bound 512"]
