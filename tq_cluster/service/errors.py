"""The one table of the errors that failed calls return.

A failed call is a gRPC status with ``google.rpc.ErrorInfo`` (domain "tq") and, if a retry helps,
``google.rpc.RetryInfo``. The meaning of each reason for a caller is documented in errors.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tq.v1 import errors_pb2
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.model.types import DurationMs
from tq_cluster.errors import (
    NotAppliedError,
    NotLeaderError,
    OutcomeUnknownError,
    OverloadedError,
    TqError,
)
from tq_cluster.service.wire import RefusedRequestError

ErrorReason: TypeAlias = errors_pb2.ErrorReason.ValueType

DOMAIN = "tq"
DETAILS_KEY = "grpc-status-details-bin"
MESSAGE_BYTES_MAX = 1_000
"""A message stands twice in an answer's trailing metadata, of which gRPC takes 8 KiB."""
FULL_RETRY_MS = DurationMs(500)
"""Retry delay for a node that is full: large requests and replies take their time."""
_PREFIX = "ERROR_REASON_"


class Row(NamedTuple):
    """One reason's status, and the retry delay unless the refusal gives one."""

    code: grpc.StatusCode
    retry_after_ms: int | None = None


_C = grpc.StatusCode
TABLE: Mapping[ErrorReason, Row] = {
    errors_pb2.ERROR_REASON_INVALID_ARGUMENT: Row(_C.INVALID_ARGUMENT),
    errors_pb2.ERROR_REASON_PAYLOAD_TOO_LARGE: Row(_C.INVALID_ARGUMENT),
    errors_pb2.ERROR_REASON_NOT_FOUND: Row(_C.NOT_FOUND),
    errors_pb2.ERROR_REASON_TASK_EXISTS: Row(_C.ALREADY_EXISTS),
    errors_pb2.ERROR_REASON_REQUEST_ID_REUSED: Row(_C.FAILED_PRECONDITION),
    errors_pb2.ERROR_REASON_REQUEST_ID_EXPIRED: Row(_C.FAILED_PRECONDITION),
    errors_pb2.ERROR_REASON_LEASE_LOST: Row(_C.FAILED_PRECONDITION),
    errors_pb2.ERROR_REASON_PERMISSION_DENIED: Row(_C.PERMISSION_DENIED),
    errors_pb2.ERROR_REASON_UNAUTHENTICATED: Row(_C.UNAUTHENTICATED),
    errors_pb2.ERROR_REASON_NOT_REPLACEABLE: Row(_C.FAILED_PRECONDITION),
    errors_pb2.ERROR_REASON_QUEUE_IN_USE: Row(_C.FAILED_PRECONDITION),
    errors_pb2.ERROR_REASON_SETTINGS_CHANGED: Row(_C.FAILED_PRECONDITION),
    errors_pb2.ERROR_REASON_UNSUPPORTED: Row(_C.UNIMPLEMENTED),
    errors_pb2.ERROR_REASON_CYCLE: Row(_C.INVALID_ARGUMENT),
    errors_pb2.ERROR_REASON_HAS_DEPENDENTS: Row(_C.FAILED_PRECONDITION),
    errors_pb2.ERROR_REASON_NOT_LEADER: Row(_C.FAILED_PRECONDITION, 50),
    errors_pb2.ERROR_REASON_NO_LEADER: Row(_C.UNAVAILABLE, 100),
    errors_pb2.ERROR_REASON_REQUEST_IDS_EXHAUSTED: Row(_C.RESOURCE_EXHAUSTED, 5_000),
    errors_pb2.ERROR_REASON_DISK_PRESSURE: Row(_C.RESOURCE_EXHAUSTED, 10_000),
    errors_pb2.ERROR_REASON_QUOTA_EXCEEDED: Row(_C.RESOURCE_EXHAUSTED, 1_000),
    errors_pb2.ERROR_REASON_QUEUE_PAUSED: Row(_C.FAILED_PRECONDITION, 5_000),
    errors_pb2.ERROR_REASON_OVERLOADED: Row(_C.RESOURCE_EXHAUSTED, 100),
    errors_pb2.ERROR_REASON_CALL_FULL: Row(_C.RESOURCE_EXHAUSTED, 0),
    errors_pb2.ERROR_REASON_NO_STATE: Row(_C.UNAVAILABLE, 1_000),
    errors_pb2.ERROR_REASON_OUTCOME_UNKNOWN: Row(_C.UNAVAILABLE, 50),
    errors_pb2.ERROR_REASON_INTERNAL: Row(_C.INTERNAL),
}


class CallError(TqError):
    """A call's failure as it is sent: made here, or passed on from the leader."""

    def __init__(self, code: grpc.StatusCode, message: str, details: bytes) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        """A serialized google.rpc.Status."""

    @property
    def reason(self) -> ErrorReason:
        """The reason in its ErrorInfo; UNSPECIFIED if it has none of ours."""
        for detail in status_pb2.Status.FromString(self.details).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN:
                name = _PREFIX + info.reason
                if name in errors_pb2.ErrorReason.keys():  # noqa: SIM118  # no mapping
                    return errors_pb2.ErrorReason.Value(name)
        return errors_pb2.ERROR_REASON_UNSPECIFIED


def refusal(refused: Refused, row: Row | None = None) -> CallError:
    """Make the error of a refusal, by ``row`` if it is not that of the table."""
    row = row or TABLE[refused.reason]
    metadata = dict(refused.metadata)
    if refused.field:
        metadata["field"] = refused.field
    name = errors_pb2.ErrorReason.Name(refused.reason).removeprefix(_PREFIX)
    message = _cut(refused.message)
    status = status_pb2.Status(code=row.code.value[0], message=message)
    _pack(status, error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN, metadata=metadata))
    after_ms = refused.retry_after_ms if refused.retry_after_ms is not None else row.retry_after_ms
    if after_ms is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(after_ms)
        _pack(status, retry)
    return CallError(row.code, message, status.SerializeToString())


def failure(error: Exception) -> CallError | None:
    """Return the caller's error for ``error``; None for one that should not have happened."""
    if isinstance(error, CallError):
        return error
    refused = _refused(error)
    return refusal(refused) if refused is not None else None


def reason_name(error: BaseException) -> str:
    """Name an error by its reason for the caller or, if it is an internal fault, by its type."""
    failed = failure(error) if isinstance(error, Exception) else None
    if failed is None:
        return type(error).__name__
    return errors_pb2.ErrorReason.Name(failed.reason).removeprefix(_PREFIX)


def not_leader(leader: str) -> CallError:
    """This node does not lead and was asked not to forward; ``leader`` is its API, if known."""
    return refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_NOT_LEADER,
            message=f"this node does not lead; the leader is {leader or 'not known'}",
            metadata={"leader": leader},
        )
    )


def no_leader(message: str) -> CallError:
    """No leader was found in time; nothing was applied."""
    return refusal(Refused(reason=errors_pb2.ERROR_REASON_NO_LEADER, message=message))


NOT_TO_BE_REPEATED = Row(_C.UNKNOWN)
"""For a call of unknown outcome that must not be repeated as it is. The code says only that; retry
policies repeat UNAVAILABLE, and some repeat ABORTED, which asks for it.
"""


def outcome_unknown(
    message: str, *, named: bool, metadata: Mapping[str, str] | None = None
) -> CallError:
    """The call may have been applied. ``named``: a repetition would be recognised, or harmless."""
    return refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_OUTCOME_UNKNOWN,
            message=message,
            metadata=metadata or {},
        ),
        None if named else NOT_TO_BE_REPEATED,
    )


def overloaded(limit: int) -> CallError:
    """This node is at its limit of concurrent calls."""
    return refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_OVERLOADED,
            message=f"this broker is at its limit of {limit} concurrent calls; retry later",
            metadata={"limit": str(limit)},
        )
    )


def overloaded_by(limit_name: str, message: str, limit: int | None = None) -> CallError:
    """This node is at a limit; the caller may retry."""
    metadata = {"limit_name": limit_name}
    if limit is not None:
        metadata["limit"] = str(limit)
    return refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_OVERLOADED,
            message=f"{limit_name}: {message}",
            metadata=metadata,
            retry_after_ms=FULL_RETRY_MS,
        )
    )


def too_heavy(message: str, limit: Mapping[str, str]) -> CallError:
    """Leaders broke while they had the call: another attempt is not likely to go better."""
    return refusal(
        Refused(reason=errors_pb2.ERROR_REASON_OVERLOADED, message=message, metadata=limit),
        Row(_C.RESOURCE_EXHAUSTED),
    )


def request_too_large(actual: int, limit: int) -> CallError:
    """The request has more bytes than its method takes."""
    return refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_PAYLOAD_TOO_LARGE,
            message=f"the request has {actual:,} bytes; at most {limit:,} are taken",
            metadata={"limit": str(limit), "actual": str(actual)},
        )
    )


def no_request() -> CallError:
    """The caller has sent no request."""
    return refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT, message="the call carries no request"
        )
    )


def shed(message: str) -> CallError:
    """The leader is behind: the call was not sent to it."""
    return refusal(Refused(reason=errors_pb2.ERROR_REASON_OVERLOADED, message=message))


def internal(request_id: str) -> CallError:
    """An internal fault; the log line of the same id has the details."""
    return refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_INTERNAL,
            message=f"internal error; search this broker's log for call {request_id}",
            metadata={"call": request_id},
        )
    )


def permission_denied(principal: str, verb: str, queue: str) -> CallError:
    """The authorize hook refused the call."""
    return refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_PERMISSION_DENIED,
            message=f"{principal or 'anonymous'} may not {verb} {queue or 'here'}",
        )
    )


def needs_version(field: str, needed: int, cluster_version: int) -> CallError:
    """The request has a field that the cluster's present version does not take."""
    return refusal(
        Refused(
            reason=errors_pb2.ERROR_REASON_UNSUPPORTED,
            message=f"{field} needs cluster version {needed}, the cluster decides by"
            f" {cluster_version}; upgrade every broker first, or leave the field out",
            field=field,
            metadata={"needed": str(needed), "cluster_version": str(cluster_version)},
        )
    )


def unauthenticated(message: str) -> CallError:
    """The caller cannot prove the identity that it claims."""
    return refusal(Refused(reason=errors_pb2.ERROR_REASON_UNAUTHENTICATED, message=message))


def _refused(error: Exception) -> Refused | None:
    match error:
        case NotLeaderError() | NotAppliedError():
            return Refused(reason=errors_pb2.ERROR_REASON_NOT_LEADER, message=str(error))
        case OutcomeUnknownError():
            return Refused(
                reason=errors_pb2.ERROR_REASON_OUTCOME_UNKNOWN,
                message="leadership ended before the call was known to be applied",
            )
        case OverloadedError():
            return Refused(reason=errors_pb2.ERROR_REASON_OVERLOADED, message=str(error))
        case RefusedRequestError():
            return error.refused
        case DecodeError():
            return Refused(
                reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
                message="the request body could not be parsed",
            )
        case _:
            return None


def _cut(message: str) -> str:
    """Cut a message to the size that fits an answer; it may quote what a caller sent."""
    encoded = message.encode()
    if len(encoded) <= MESSAGE_BYTES_MAX:
        return message
    return encoded[:MESSAGE_BYTES_MAX].decode(errors="ignore") + "..."


def _pack(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)
