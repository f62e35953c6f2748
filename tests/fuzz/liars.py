"""Messages of the right form, with numbers near the truth, far from it, or at the edges."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from tq.internal.v1 import peer_pb2
from tq_cluster.raft.bounds import INDEX_MAX
from tq_cluster.raft.log_api import LogStatus
from tq_common.limits import TERM_MAX, TERM_STEP_MAX

KINDS = [
    field.name
    for field in peer_pb2.PeerMessage.DESCRIPTOR.oneofs_by_name["body"].fields
    if field.name not in {"hello", "refusal"}
]
_EDGES = (0, 1, 2**31, TERM_STEP_MAX, INDEX_MAX - 1, TERM_MAX, 2**63 - 1, 2**64 - 1)


def lie(draw: random.Random, status: LogStatus) -> dict[str, Any]:
    """Make up a message to a node with this status."""
    kind = draw.choice(KINDS)
    message = peer_pb2.PeerMessage()
    body = getattr(message, kind)
    body.SetInParent()
    _fill(body, draw, status)
    return {kind: body}


def _fill(body: Any, draw: random.Random, status: LogStatus) -> None:  # noqa: ANN401 - any message
    for field in body.DESCRIPTOR.fields:
        if field.message_type is not None:
            for _ in range(draw.choice((0, 1, 1, 2, 5))):
                _fill(getattr(body, field.name).add(), draw, status)
            continue
        setattr(body, field.name, _value(field, draw, status))


def _value(field: FieldDescriptor, draw: random.Random, status: LogStatus) -> object:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return draw.random() < 0.5
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return draw.randbytes(draw.choice((0, 1, 16, 300)))
            return draw.choice(("", "n1", "why", "\x1b[2J"))
    near = status.term if "term" in field.name else status.last_index
    number = draw.choice((near + draw.randint(-2, 2), near, near + 1, draw.choice(_EDGES)))
    return max(0, min(number, _most(field)))


def _most(field: FieldDescriptor) -> int:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_UINT32:
            return 2**32 - 1
        case FieldDescriptor.CPPTYPE_INT64:
            return 2**63 - 1
        case _:
            return 2**64 - 1
