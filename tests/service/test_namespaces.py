"""Each call is for one namespace: the one that its metadata names, at whichever node it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
import pytest

from tests.core.lone_queue import LoneQueue, spec
from tests.patience import PATIENCE_S
from tests.service.fakes import Cluster, Node, Stubs, cluster_of, fails, stubs_of
from tests.service.older import older_believes, older_proof
from tests.service.test_ways import connected
from tq.v1 import errors_pb2, queue_service_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.namespaces import Namespaces
from tq_cluster.core.model.operations import Caller, Submit
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, Principal
from tq_cluster.service import admission, errors
from tq_cluster.service.call import Header
from tq_cluster.service.peer_authentication import Said, digest_of, marked

TWO: Final = Namespaces({"shop": 7})
SUBMIT = task_service_pb2.SubmitRequest(request_id="r1")
OTHER = task_service_pb2.SubmitRequest(request_id="r2")
PATH: Final = "/tq.v1.TaskService/Submit"
Metadata = tuple[tuple[str, str], ...]


def named(name: str) -> Metadata:
    return ((Header.NAMESPACE, name),)


def callers(node: Node) -> list[Caller]:
    """For whom the leader was asked to submit."""
    return [each.caller for each in node.leader.asked if isinstance(each, Submit)]


@pytest.mark.parametrize("asked", ["n1", "n2"], ids=["at the leader", "forwarded"])
@pytest.mark.parametrize(
    ("metadata", "number"),
    [
        (named("shop"), 7),
        (named("default"), DEFAULT_NAMESPACE),
        (named(""), DEFAULT_NAMESPACE),
        ((), DEFAULT_NAMESPACE),
    ],
)
async def test_a_call_is_for_the_namespace_that_it_names(
    asked: str, metadata: Metadata, number: int
) -> None:
    async with cluster_of("n1", "n2", namespaces=TWO) as cluster, stubs_of(cluster[asked]) as stubs:
        cluster.elect("n1", 2)
        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S, metadata=metadata)
        beat = worker_service_pb2.HeartbeatRequest()
        await stubs.worker.Heartbeat(beat, timeout=PATIENCE_S, metadata=metadata)
        listing = worker_service_pb2.ListWorkersRequest()
        await stubs.worker.ListWorkers(listing, timeout=PATIENCE_S, metadata=metadata)
        wait = task_service_pb2.WaitTaskRequest()
        await stubs.tasks.WaitTask(wait, timeout=PATIENCE_S, metadata=metadata)
        leader = cluster["n1"].leader

    assert [each.namespace for each in (*callers(cluster["n1"]), *leader.callers)] == [number] * 4


async def test_a_call_forwarded_to_the_listener_for_nodes_keeps_caller_and_namespace() -> None:
    async with cluster_of("n1", "n2", announced=True, namespaces=TWO) as cluster:
        cluster.elect("n1", 2)
        await connected(cluster, "n2")
        async with as_alice(cluster) as stubs:
            await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S, metadata=named("shop"))
        async with stubs_of(cluster["n2"]) as stubs:
            entrance = cluster["n2"].service._router._entrance
            entrance._authenticate = lambda _metadata: Principal("")
            await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S, metadata=named("shop"))

    assert callers(cluster["n1"]) == [
        Caller(principal=Principal("alice"), namespace=7),
        Caller(principal=Principal(""), namespace=7),
    ]


@pytest.mark.parametrize("asked", ["n1", "n2"], ids=["at the leader", "at a follower"])
@pytest.mark.parametrize(
    ("name", "code", "reason", "says"),
    [
        ("nowhere", grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "no namespace 'nowhere'"),
        ("a b", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "1 to 64 characters"),
        ("x" * 65, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "1 to 64 characters"),
    ],
)
async def test_a_call_for_a_namespace_that_does_not_exist_is_refused(
    asked: str, name: str, code: grpc.StatusCode, reason: str, says: str
) -> None:
    async with cluster_of("n1", "n2", namespaces=TWO) as cluster, stubs_of(cluster[asked]) as stubs:
        cluster.elect("n1", 2)
        with fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=5, metadata=named(name))

    assert (failure.code, failure.reason) == (code, reason)
    assert says in failure.message
    assert failure.metadata["field"] == Header.NAMESPACE
    assert cluster["n1"].leader.asked == []


@pytest.mark.parametrize("asked", ["n1", "n2"], ids=["at the leader", "forwarded"])
@pytest.mark.parametrize(
    "level", [task_service_pb2.READ_LEVEL_LINEARIZABLE, task_service_pb2.READ_LEVEL_LOCAL]
)
async def test_a_read_sees_its_namespace_alone(
    asked: str, level: task_service_pb2.ReadLevel.ValueType
) -> None:
    async with cluster_of("n1", "n2", namespaces=TWO) as cluster, stubs_of(cluster[asked]) as stubs:
        cluster.elect("n1", 2)
        for node in cluster.nodes.values():
            LoneQueue(store=node.store).submitted(spec(), spec())
            LoneQueue(store=node.store, namespace=7).submitted(spec())
            node.store.commit()
        request = queue_service_pb2.GetQueueStatsRequest(queue="default", read_level=level)
        pending = [
            (await stubs.queues.GetQueueStats(request, timeout=5, metadata=metadata)).stats.pending
            for metadata in ((), named("shop"))
        ]

    assert pending == [2, 1]


async def test_a_reply_that_does_not_fit_is_refused_unmade_only_in_its_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = task_service_pb2.WaitTaskRequest(task_id="t")
    async with cluster_of("n1", namespaces=TWO) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        router = cluster["n1"].service._router
        path = "/tq.v1.TaskService/WaitTask"
        router._large[path, 7, wait.SerializeToString()] = admission.REPLY_BYTES_MAX

        await stubs.tasks.WaitTask(wait, timeout=5)
        with fails() as failure:
            await stubs.tasks.WaitTask(wait, timeout=5, metadata=named("shop"))

    assert failure.metadata["limit_name"] == "reply_bytes"
    assert [each.namespace for each in cluster["n1"].leader.callers] == [DEFAULT_NAMESPACE]


# ---------------------------------------------------------------- what a node that forwards proves


async def proven(cluster: Cluster, request: task_service_pb2.SubmitRequest) -> Metadata:
    """The metadata with which n2 forwards alice's submit in the shop to n1."""
    said = Said(
        principal="shop/alice",
        namespace="shop",
        path=PATH,
        hop="n2",
        elapsed=marked(3),
        digest=await digest_of(request.SerializeToString()),
    )
    proof = cluster["n2"].service._router._entrance._proof.sign(said)
    assert proof is not None
    return (
        (Header.HOP, said.hop),
        (Header.ELAPSED_MS, said.elapsed),
        (Header.NAMESPACE, said.namespace),
        (Header.PRINCIPAL, said.principal),
        (Header.DIGEST, said.digest),
        (Header.PEER_PROOF, proof),
    )


async def test_a_proof_is_of_the_request_that_it_came_with() -> None:
    async with cluster_of("n1", "n2", namespaces=TWO) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        metadata = await proven(cluster, SUBMIT)
        with fails() as failure:
            await stubs.tasks.Submit(OTHER, timeout=5, metadata=metadata)
        assert cluster["n1"].leader.asked == []
        await stubs.tasks.Submit(SUBMIT, timeout=5, metadata=metadata)

    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert callers(cluster["n1"]) == [Caller(principal=Principal("alice"), namespace=7)]


@pytest.mark.parametrize("changed", [Header.NAMESPACE, Header.DIGEST, Header.PRINCIPAL])
async def test_a_proof_is_of_no_use_for_another_namespace_or_request(changed: str) -> None:
    async with cluster_of("n1", "n2", namespaces=TWO) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        other = {
            Header.NAMESPACE: "default",
            Header.DIGEST: await digest_of(OTHER.SerializeToString()),
            Header.PRINCIPAL: "shop/bob",
        }
        metadata = dict(await proven(cluster, SUBMIT)) | {changed: other[changed]}
        with fails() as failure:
            await stubs.tasks.Submit(OTHER, timeout=5, metadata=tuple(metadata.items()))

    assert failure.reason == "UNAUTHENTICATED"
    assert cluster["n1"].leader.asked == []


# ---------------------------------------------------------------- beside older brokers


def older_headers(node: Node, **changed: str) -> Metadata:
    """What a broker of an earlier version sends with alice's submit."""
    assert node.membership is not None
    fields = {"principal": "alice", "path": PATH, "request_id": "", "hop": "n2", "elapsed": "7"}
    fields |= changed
    proof = older_proof(node.membership, b"", list(fields.values()))
    return (
        (Header.HOP, fields["hop"]),
        (Header.ELAPSED_MS, fields["elapsed"]),
        (Header.PRINCIPAL, fields["principal"]),
        (Header.PEER_PROOF, proof),
    )


async def test_a_call_that_an_older_broker_forwards_is_its_callers() -> None:
    async with cluster_of("n1", "n2", namespaces=TWO) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        headers = older_headers(cluster["n1"])
        await stubs.tasks.Submit(SUBMIT, timeout=5, metadata=headers)

    assert callers(cluster["n1"]) == [
        Caller(principal=Principal("alice"), namespace=DEFAULT_NAMESPACE)
    ]


@pytest.mark.parametrize(
    ("changed", "more"),
    [
        pytest.param({}, named("shop"), id="in another namespace"),
        pytest.param({"principal": "shop/alice"}, named("shop"), id="with its name before"),
        pytest.param({"elapsed": marked(7)}, (), id="from a sender that makes the newer one"),
    ],
)
async def test_the_older_proof_is_not_taken_where_the_newer_one_is_demanded(
    changed: Mapping[str, str], more: Metadata
) -> None:
    async with cluster_of("n1", "n2", namespaces=TWO) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 2)
        headers = older_headers(cluster["n1"], **changed)
        with fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=5, metadata=(*headers, *more))

    assert failure.reason == "UNAUTHENTICATED"
    assert cluster["n1"].leader.asked == []


def make_older(node: Node) -> None:
    """Let a node take calls as a broker of an earlier version does, which knows no namespaces."""
    entrance: Any = node.service._router._entrance

    def sender(said: Said, metadata: Mapping[str, str]) -> tuple[str, Principal, float]:
        assert node.membership is not None
        proof = metadata.get(Header.PEER_PROOF, "")
        fields = (said.principal, said.path, said.request_id, said.hop, said.elapsed)
        if said.hop and proof and older_believes(node.membership, b"", proof, fields):
            return said.hop, Principal(said.principal), int(said.elapsed) / 1000
        if said.principal:
            raise errors.unauthenticated("only nodes may say so")
        return "", Principal(""), 0.0

    entrance._sender = sender
    entrance._namespace = lambda _metadata: DEFAULT_NAMESPACE


@pytest.mark.parametrize("principal", ["alice", ""], ids=["of alice", "of an anonymous caller"])
async def test_an_older_leader_takes_a_forwarded_call_in_the_default_namespace_and_no_other(
    principal: str,
) -> None:
    async with cluster_of("n1", "n2", namespaces=TWO) as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        entrance = cluster["n2"].service._router._entrance
        entrance._authenticate = lambda _metadata: Principal(principal)
        make_older(cluster["n1"])

        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        with fails() as failure:
            await stubs.tasks.Submit(OTHER, timeout=5, metadata=named("shop"))

    assert failure.reason == errors_pb2.ErrorReason.Name(
        errors_pb2.ERROR_REASON_UNAUTHENTICATED
    ).removeprefix("ERROR_REASON_")
    assert callers(cluster["n1"]) == [
        Caller(principal=Principal(principal), namespace=DEFAULT_NAMESPACE)
    ]


@asynccontextmanager
async def as_alice(cluster: Cluster) -> AsyncIterator[Stubs]:
    """Call a follower n2 that takes its caller for alice."""
    entrance = cluster["n2"].service._router._entrance
    entrance._authenticate = lambda _metadata: Principal("alice")
    async with stubs_of(cluster["n2"]) as stubs:
        yield stubs
