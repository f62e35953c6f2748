"""The properties of each method, from the options of the public protos (options.proto)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from tq.v1 import options_pb2
from tq_cluster.errors import StartError
from tq_cluster.service.wire import MessageRules, rules_of


class Repeat(enum.Enum):
    """Whether a call that may have been applied can be sent again."""

    READ = options_pb2.MethodPolicy.REPEAT_READ
    """Always: it changes nothing."""
    IDEMPOTENT = options_pb2.MethodPolicy.REPEAT_IDEMPOTENT
    """Always: the second time changes nothing more."""
    BY_REQUEST_ID = options_pb2.MethodPolicy.REPEAT_BY_REQUEST_ID
    """If it carries a request_id."""
    NEVER = options_pb2.MethodPolicy.REPEAT_NEVER


@dataclass(frozen=True, slots=True)
class Policy:
    """What is known of a method before a request of it is read."""

    request_bytes_max: int
    limits: Mapping[str, int]
    """How many items each field may hold, by its path."""
    repeat: Repeat
    long_poll: bool
    rules: MessageRules
    """The limits in the form that the walk over a request's bytes needs."""


def policy_of(request: type[Message], name: str) -> Policy:
    """Return the policy of method ``name``, which takes ``request``; StartError if it has none."""
    described: Any = request.DESCRIPTOR
    for service in described.file.services_by_name.values():
        method = service.methods_by_name.get(name)
        if method is not None and method.input_type is described:
            return _read(method)
    raise StartError(f"no service takes a {described.full_name} in a method {name}")


def _read(method: MethodDescriptor) -> Policy:
    said = _options(method)
    if not said.request_bytes_max:
        raise StartError(f"{method.full_name} has no request_bytes_max among its options")
    if said.repeat == options_pb2.MethodPolicy.REPEAT_UNSPECIFIED:
        raise StartError(f"{method.full_name} does not say among its options how it may repeat")
    limits = {limit.field: limit.items_max for limit in said.limits}
    try:
        rules = rules_of(method.input_type, limits)
    except ValueError as error:
        raise StartError(f"the options of {method.full_name}: {error}") from error
    return Policy(
        request_bytes_max=said.request_bytes_max,
        limits=MappingProxyType(limits),
        repeat=Repeat(said.repeat),
        long_poll=said.long_poll,
        rules=rules,
    )


def _options(method: MethodDescriptor) -> options_pb2.MethodPolicy:
    return method.GetOptions().Extensions[options_pb2.policy]
