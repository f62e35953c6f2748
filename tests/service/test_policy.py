"""Each method's limits and repeatability stand in the protos, and hold for broker and client."""

from __future__ import annotations

import importlib

import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from tests.service.fakes import cluster_of
from tq.v1 import options_pb2, task_service_pb2
from tq_client import methods
from tq_client.calls import Method as ClientMethod
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.errors import StartError
from tq_cluster.service import policy
from tq_cluster.service.policy import Repeat, policy_of
from tq_common.limits import LABELS_MAX

SERVICES = ("task", "worker", "queue", "cluster", "conversation")


def described() -> dict[str, MethodDescriptor]:
    """Every method of the public API by its name."""
    found: dict[str, MethodDescriptor] = {}
    for name in SERVICES:
        module = importlib.import_module(f"tq.v1.{name}_service_pb2")
        [service] = module.DESCRIPTOR.services_by_name.values()
        assert isinstance(service, ServiceDescriptor)
        found |= service.methods_by_name
    return found


def said_of(method: MethodDescriptor) -> options_pb2.MethodPolicy:
    return method.GetOptions().Extensions[options_pb2.policy]


async def test_every_method_is_served_by_the_policy_that_the_protos_give_it() -> None:
    async with cluster_of("n1") as cluster:
        served = {
            method.name: method.policy
            for servicer in cluster["n1"].service.servicers
            for method in servicer.methods()
        }

    assert served.keys() == described().keys()
    for name, method in described().items():
        said = said_of(method)
        assert served[name].request_bytes_max == said.request_bytes_max > 0
        assert served[name].repeat.value == said.repeat != 0
        assert served[name].verb.value == said.verb != 0
        assert served[name].long_poll == said.long_poll == (name in {"Claim", "WaitTask"})


def test_a_method_takes_less_than_grpc_does_so_that_it_is_refused_in_words() -> None:
    for method in described().values():
        assert said_of(method).request_bytes_max < DEFAULT_LIMITS.message_bytes_max


def test_every_field_of_a_request_that_can_hold_many_items_has_a_limit() -> None:
    for method in described().values():
        limited = {limit.field for limit in said_of(method).limits}
        many = {field.name for field in method.input_type.fields if field.is_repeated}
        assert many <= limited, method.full_name


def test_the_limits_are_those_that_deciding_holds_to() -> None:
    said = {
        (name, limit.field): limit.items_max
        for name, method in described().items()
        for limit in said_of(method).limits
    }

    limits = DEFAULT_LIMITS
    assert said["Submit", "tasks"] == limits.submit_tasks_max
    assert said["Submit", "tasks.labels"] == LABELS_MAX
    assert said["Heartbeat", "leases"] == limits.heartbeat_leases_max
    assert said["Report", "reports"] == limits.reports_max
    assert said["Report", "reports.complete.submit"] == limits.completion_tasks_max
    assert said["Redrive", "task_ids"] == limits.redrive_tasks_max
    assert said["DeleteDeadLetters", "task_ids"] == limits.delete_tasks_max


def test_the_client_repeats_each_method_as_the_brokers_do() -> None:
    client = {
        name.title().replace("_", ""): method.repeat.name
        for name, method in vars(methods).items()
        if isinstance(method, ClientMethod)
    }
    brokers = {name: Repeat(said_of(method).repeat).name for name, method in described().items()}

    assert client == {name: brokers[name] for name in client}
    assert client["CancelTask"] == "BY_REQUEST_ID"


def test_what_can_be_named_by_a_request_id_is_repeated_by_it() -> None:
    for name, method in described().items():
        named = "request_id" in method.input_type.fields_by_name
        by_id = said_of(method).repeat == options_pb2.MethodPolicy.REPEAT_BY_REQUEST_ID
        assert named == by_id, name


@pytest.mark.parametrize("lacks", ["request_bytes_max", "repeat", "verb", "scope"])
def test_a_broker_with_a_method_that_lacks_its_policy_does_not_start(
    lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = options_pb2.MethodPolicy(
        request_bytes_max=1,
        repeat=options_pb2.MethodPolicy.REPEAT_READ,
        verb=options_pb2.VERB_SUBMIT,
        scope=options_pb2.Scope(queue="tasks.queue"),
    )
    monkeypatch.setattr(policy, "_options", lambda _method: said)
    assert policy_of(task_service_pb2.SubmitRequest, "Submit").request_bytes_max == 1
    said.ClearField(lacks)  # type: ignore[arg-type]  # any field's name

    with pytest.raises(StartError, match="Submit"):
        policy_of(task_service_pb2.SubmitRequest, "Submit")


def test_a_request_that_no_method_of_that_name_takes_is_a_mistake_found_at_start() -> None:
    with pytest.raises(StartError, match="GetTask"):
        policy_of(task_service_pb2.SubmitRequest, "GetTask")
