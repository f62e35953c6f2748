"""A caller can ask what a broker supports before it uses what is new."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest

from tests.patience import PATIENCE_S
from tests.service.fakes import cluster_of
from tq.v1 import cluster_service_pb2 as pb
from tq_client import AsyncClient
from tq_client.errors import Reason, UnsupportedError
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.service.features import FEATURES, features_at

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


async def test_any_node_answers_by_itself_without_a_leader() -> None:
    async with cluster_of("n1", "n2") as cluster:
        cluster["n2"].cluster_version = 2
        async with AsyncClient([cluster["n2"].address]) as client:
            info = await client.server_info(timeout_s=PATIENCE_S)

        assert info == pb.GetServerInfoResponse(
            version="1",
            cluster_version=2,
            cluster_version_max=CLUSTER_VERSION,
            features=features_at(2),
            limits=info.limits,
            node_id="n2",
        )
        assert info.limits.payload_bytes_max == DEFAULT_LIMITS.payload_bytes_max
        assert info.limits.reply_bytes_max == DEFAULT_LIMITS.reply_bytes_max
        assert info.limits.request_id_window.ToMilliseconds() == DEFAULT_LIMITS.request_window_ms


async def test_a_node_that_knows_no_cluster_yet_names_no_feature() -> None:
    async with cluster_of("n1") as cluster:
        cluster["n1"].cluster_version = 0
        async with AsyncClient([cluster["n1"].address]) as client:
            info = await client.server_info(timeout_s=PATIENCE_S)

    assert (info.cluster_version, list(info.features)) == (0, [])


def test_a_feature_is_named_from_its_cluster_version_on() -> None:
    assert "replace-node" not in features_at(1)
    assert "replace-node" in features_at(2)
    assert features_at(CLUSTER_VERSION) == sorted(FEATURES)
    assert max(FEATURES.values()) <= CLUSTER_VERSION


def test_every_feature_is_documented_with_its_cluster_version() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", OPERATIONS.read_text(), re.MULTILINE)

    assert {name: int(version) for name, version in rows} == FEATURES


async def test_a_broker_that_is_too_old_to_answer_is_said_to_be() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient([f"127.0.0.1:{port}"]) as client:
            with pytest.raises(UnsupportedError) as caught:
                await client.server_info(timeout_s=PATIENCE_S)
    finally:
        await server.stop(None)

    assert caught.value.reason is Reason.UNSUPPORTED
