"""The properties of each method, from the options of the public protos (options.proto)."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from tq.v1 import options_pb2
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.kernel.batch import CLUSTER_VERSION_FIRST
from tq_cluster.errors import StartError
from tq_cluster.service.paths import Path, Step
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


class Verb(enum.Enum):
    """What a caller asks to do; options.proto documents each."""

    SUBMIT = options_pb2.VERB_SUBMIT
    WORK = options_pb2.VERB_WORK
    READ = options_pb2.VERB_READ
    READ_CONTENT = options_pb2.VERB_READ_CONTENT
    CANCEL = options_pb2.VERB_CANCEL
    CONFIGURE = options_pb2.VERB_CONFIGURE
    REDRIVE = options_pb2.VERB_REDRIVE
    PURGE = options_pb2.VERB_PURGE
    OPERATE = options_pb2.VERB_OPERATE
    BACKUP = options_pb2.VERB_BACKUP
    ADMIN = options_pb2.VERB_ADMIN
    AUDIT = options_pb2.VERB_AUDIT

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a caller must be allowed to do, and on which queues."""

    verb: Verb
    queue: Path | None = None
    """Names the queues. A single field that is empty means all of the namespace."""
    task: Path | None = None
    """Names tasks, each of which has its queue."""
    if_set: Path | None = None
    unless_set: Path | None = None

    def applies(self, request: Message) -> bool:
        """Whether ``request`` asks for this."""
        if self.if_set is not None:
            return any(self.if_set.places(request))
        return self.unless_set is None or not any(self.unless_set.places(request))


@dataclass(frozen=True, slots=True)
class Need:
    """A field that needs a cluster version."""

    path: Path
    cluster_version: int


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
    access: tuple[Access, ...]
    """What its caller must be allowed to do: the method's own verb first."""
    needs: tuple[Need, ...]
    """The fields of its requests that a cluster of the first version does not take."""
    needs_version: int = field(init=False)
    """The cluster version that takes every field of its requests; 0 for any."""

    def __post_init__(self) -> None:
        newest = max((need.cluster_version for need in self.needs), default=0)
        object.__setattr__(self, "needs_version", newest)

    @property
    def verb(self) -> Verb:
        """The method's own verb."""
        return self.access[0].verb


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
    if said.verb == options_pb2.VERB_UNSPECIFIED:
        raise StartError(f"{method.full_name} has no verb among its options")
    if not said.HasField("scope"):
        raise StartError(f"{method.full_name} has no scope among its options")
    limits = {limit.field: limit.items_max for limit in said.limits}
    try:
        rules = rules_of(method.input_type, limits)
        own = options_pb2.Access(verb=said.verb, scope=said.scope)
        access = tuple(_access(method.input_type, each) for each in (own, *said.also))
        needs = tuple(_needs(method.input_type))
    except ValueError as error:
        raise StartError(f"the options of {method.full_name}: {error}") from error
    return Policy(
        request_bytes_max=said.request_bytes_max,
        limits=MappingProxyType(limits),
        repeat=Repeat(said.repeat),
        long_poll=said.long_poll,
        rules=rules,
        access=access,
        needs=needs,
    )


def _access(request: Descriptor, said: options_pb2.Access) -> Access:
    """Read one entry; ValueError if it lacks a part, or names a field that cannot be meant."""
    if said.verb == options_pb2.VERB_UNSPECIFIED:
        raise ValueError("an entry of `also` has no verb")
    scope = said.scope
    named = bool(scope.queue or scope.task)
    if named + scope.all_queues + scope.cluster != 1:
        raise ValueError(
            "a scope has either `queue`, `task` or both, or `all_queues`, or `cluster`"
        )
    if said.if_set and said.unless_set:
        raise ValueError("an entry of `also` has both `if_set` and `unless_set`")
    return Access(
        verb=Verb(said.verb),
        queue=_names(request, scope.queue),
        task=_names(request, scope.task),
        if_set=Path.of(request, said.if_set) if said.if_set else None,
        unless_set=Path.of(request, said.unless_set) if said.unless_set else None,
    )


def _names(request: Descriptor, field: str) -> Path | None:
    """Return the path of a field that holds names; None for an empty one."""
    return Path.of(request, field, names=True) if field else None


def _needs(message: Descriptor, above: tuple[Step, ...] = ()) -> Iterator[Need]:
    """Yield the fields that need more than the first cluster version.

    ValueError for one that needs a version which this software does not support.
    """
    for each in message.fields:
        steps = (*above, Step.of(each))
        since = since_of(each)
        if since > CLUSTER_VERSION:
            raise ValueError(
                f"{Path(steps)} needs cluster version {since}; this software supports"
                f" {CLUSTER_VERSION}"
            )
        if since > CLUSTER_VERSION_FIRST:
            yield Need(Path(steps), since)
        if each.message_type is not None and not each.message_type.GetOptions().map_entry:
            yield from _needs(each.message_type, steps)


def since_of(field: FieldDescriptor) -> int:
    """Return the cluster version that a field needs; 0 for any."""
    return field.GetOptions().Extensions[options_pb2.since]


def _options(method: MethodDescriptor) -> options_pb2.MethodPolicy:
    return method.GetOptions().Extensions[options_pb2.policy]
