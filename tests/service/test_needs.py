"""A field that needs a newer cluster version is refused by the node that takes the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FieldDescriptor

from tests.patience import PATIENCE_S
from tests.service.fakes import cluster_of, fails, stubs_of
from tq.v1 import cluster_service_pb2, options_pb2, task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.errors import StartError
from tq_cluster.service import policy
from tq_cluster.service.needs import Needs
from tq_cluster.service.policy import policy_of

KEEP = task_pb2.IF_EXISTS_KEEP


@pytest.fixture(autouse=True)
def since(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Let fields need a version; at first TaskSpec.if_exists needs version 3, and no other any."""
    needed: dict[str, int] = {"tq.v1.TaskSpec.if_exists": 3}

    def said(field: FieldDescriptor) -> int:
        return needed.get(field.full_name, 0)

    monkeypatch.setattr(policy, "since_of", said)
    return needed.__setitem__


def submit(*kept: int, tasks: int = 3) -> task_service_pb2.SubmitRequest:
    """A submit whose tasks at these places may exist already."""
    request = task_service_pb2.SubmitRequest(request_id="r")
    for place in range(tasks):
        spec = request.tasks.add(task_id=f"t{place}", queue="q", type="t")
        if place in kept:
            spec.if_exists = KEEP
    return request


async def test_a_follower_of_an_older_cluster_refuses_the_field_and_forwards_nothing() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n2"].cluster_version = 2
        with fails() as failure:
            await stubs.tasks.Submit(submit(1), timeout=PATIENCE_S)

        assert cluster["n1"].leader.asked == []
    assert failure.code is grpc.StatusCode.UNIMPLEMENTED
    assert failure.reason == "UNSUPPORTED"
    assert failure.message == (
        "tasks[1].if_exists needs cluster version 3, the cluster decides by 2; upgrade every broker"
        " first, or leave the field out"
    )
    assert failure.metadata == {
        "field": "tasks[1].if_exists",
        "needed": "3",
        "cluster_version": "2",
    }


async def test_the_leader_refuses_it_too() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        with fails() as failure:
            await stubs.tasks.Submit(submit(0), timeout=PATIENCE_S)

    assert failure.reason == "UNSUPPORTED"


async def test_a_field_inside_a_completion_is_found() -> None:
    request = worker_service_pb2.ReportRequest(worker_id="w")
    request.reports.add().fail.error = "no"
    request.reports.add().complete.submit.extend(submit(1).tasks)
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        with fails() as failure:
            await stubs.worker.Report(request, timeout=PATIENCE_S)

    assert failure.metadata["field"] == "reports[1].complete.submit[1].if_exists"


async def test_a_request_without_the_field_is_forwarded_while_the_cluster_is_older() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        await stubs.tasks.Submit(submit(tasks=1_000), timeout=PATIENCE_S)

        assert len(cluster["n1"].leader.asked) == 1


async def test_the_field_is_taken_from_the_moment_that_the_version_has_risen() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        with fails():
            await stubs.tasks.Submit(submit(0), timeout=PATIENCE_S)
        for node in cluster.nodes.values():
            node.cluster_version = 3
        await stubs.tasks.Submit(submit(0), timeout=PATIENCE_S)

        assert len(cluster["n1"].leader.asked) == 1


async def test_a_node_without_a_state_sends_the_caller_to_another_node() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n2"].cluster_version = 0
        with fails() as failure:
            await stubs.tasks.Submit(submit(0), timeout=PATIENCE_S)
        await stubs.tasks.Submit(submit(), timeout=PATIENCE_S)

        assert len(cluster["n1"].leader.asked) == 1
    assert failure.reason == "NO_LEADER"
    assert failure.retry_after_ms is not None


async def test_a_message_counts_if_it_is_there_even_if_it_is_empty(
    since: Callable[[str, int], None],
) -> None:
    since("tq.v1.TaskSpec.retry_policy", 2)
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        request = submit()
        request.tasks[2].retry_policy.SetInParent()
        with fails() as failure:
            await stubs.tasks.Submit(request, timeout=PATIENCE_S)

    assert failure.metadata["field"] == "tasks[2].retry_policy"


async def test_a_stream_is_refused_before_its_first_message(
    since: Callable[[str, int], None],
) -> None:
    since("tq.v1.BackupRequest.min_applied_index", 2)
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        request = cluster_service_pb2.BackupRequest(min_applied_index=1)
        with fails() as failure:
            async for _ in stubs.cluster.Backup(request, timeout=PATIENCE_S):
                raise AssertionError("the stream has begun")

    assert failure.reason == "UNSUPPORTED"
    assert failure.metadata["field"] == "min_applied_index"


def test_the_version_is_read_only_for_methods_that_need_one_and_only_until_it_is_reached() -> None:
    versions = iter([1, 3])
    needs = Needs(lambda: next(versions))
    submits = policy_of(task_service_pb2.SubmitRequest, "Submit")
    gets = policy_of(task_service_pb2.GetTaskRequest, "GetTask")

    assert needs.met(gets)
    assert not needs.met(submits)
    assert needs.met(submits)
    assert needs.met(submits)  # a third reading would be StopIteration


def test_a_field_that_needs_more_than_this_software_supports_is_a_mistake_found_at_start(
    since: Callable[[str, int], None],
) -> None:
    since("tq.v1.TaskSpec.if_exists", CLUSTER_VERSION + 1)

    with pytest.raises(StartError, match=r"tasks\.if_exists needs cluster version"):
        policy_of(task_service_pb2.SubmitRequest, "Submit")


def test_the_version_that_a_field_needs_stands_among_its_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    file = descriptor_pb2.FileDescriptorProto(name="shelf.proto", package="shelf", syntax="proto3")
    book = file.message_type.add(name="Book")
    plain = book.field.add(name="title", number=1, type=FieldDescriptor.TYPE_STRING)
    plain.label = FieldDescriptor.LABEL_OPTIONAL  # type: ignore[assignment]  # a number
    later = book.field.add(name="pages", number=2, type=FieldDescriptor.TYPE_UINT32)
    later.label = FieldDescriptor.LABEL_REPEATED  # type: ignore[assignment]  # as above
    later.options.Extensions[options_pb2.since] = 2
    pool: Any = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    described = pool.FindMessageTypeByName("shelf.Book")

    [need] = policy._needs(described)

    assert (str(need.path), need.cluster_version) == ("pages", 2)
