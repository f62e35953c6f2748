"""The gRPC service config that ships for clients made of generated stubs alone."""

from __future__ import annotations

import json
from pathlib import Path

from google.protobuf import descriptor_pool
from grpc import aio

from tests.client.fake_broker import FakeBroker, lose_reply, serving
from tests.patience import PATIENCE_S
from tq.v1 import task_service_pb2_grpc
from tq.v1.task_pb2 import TaskSpec
from tq.v1.task_service_pb2 import SubmitRequest
from tq_client import methods
from tq_client.calls import Method, Repeat

SERVICE_CONFIG = (Path(__file__).parents[2] / "proto" / "service_config.json").read_text()


def methods_with_a_retry_policy() -> set[str]:
    """Resolve the config's names against the services' descriptors."""
    names: set[str] = set()
    for config in json.loads(SERVICE_CONFIG)["methodConfig"]:
        assert "retryPolicy" in config
        for name in config["name"]:
            service = descriptor_pool.Default().FindServiceByName(name["service"])
            named = {name["method"]} if "method" in name else set(service.methods_by_name)
            assert named <= set(service.methods_by_name)
            names |= named
    return names


async def test_a_generated_stub_with_the_shipped_config_repeats_a_call_whose_reply_was_lost() -> (
    None
):
    broker = FakeBroker(steps=[lose_reply, lose_reply])
    async with serving(broker) as address:
        options = [("grpc.service_config", SERVICE_CONFIG)]
        async with aio.insecure_channel(address, options=options) as channel:
            stub = task_service_pb2_grpc.TaskServiceStub(channel)
            request = SubmitRequest(request_id="r1", tasks=[TaskSpec(queue="mail", type="send")])
            await stub.Submit(request, timeout=PATIENCE_S)

    assert broker.of("Submit") == [request] * 3


def test_the_shipped_config_repeats_what_the_client_repeats_and_nothing_else() -> None:
    table = {
        name.title().replace("_", ""): method
        for name, method in vars(methods).items()
        if isinstance(method, Method)
    }
    repeated = {name for name, method in table.items() if method.repeat is not Repeat.NEVER}

    assert methods_with_a_retry_policy() == repeated | {"GetNodeStatus"}
