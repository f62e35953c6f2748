"""The errors of calls: one class for each way in which a caller can react.

`RequestError` and its subclasses: the call is at fault; repeating it unchanged cannot succeed.
`UnsupportedError`: nothing was applied; the call can succeed once the brokers are upgraded.
`UnavailableError` and `BusyError`: nothing was applied; a later call may succeed.
`OutcomeUnknownError`: the call may have been applied, or not. `InternalError`: a bug in tq.
`ForkedError`: no client can work in this process.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import grpc
from google.rpc import error_details_pb2, status_pb2

from tq.v1 import errors_pb2

if TYPE_CHECKING:
    from grpc.aio import AioRpcError

DOMAIN = "tq"
_PREFIX = "ERROR_REASON_"
_DETAILS_KEY = "grpc-status-details-bin"


class Reason(enum.StrEnum):
    """Why a call or an item failed; proto/tq/v1/errors.proto documents each reason."""

    UNSPECIFIED = "UNSPECIFIED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    NOT_FOUND = "NOT_FOUND"
    TASK_EXISTS = "TASK_EXISTS"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    REQUEST_ID_EXPIRED = "REQUEST_ID_EXPIRED"
    LEASE_LOST = "LEASE_LOST"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    NOT_REPLACEABLE = "NOT_REPLACEABLE"
    QUEUE_IN_USE = "QUEUE_IN_USE"
    SETTINGS_CHANGED = "SETTINGS_CHANGED"
    UNSUPPORTED = "UNSUPPORTED"
    CYCLE = "CYCLE"
    HAS_DEPENDENTS = "HAS_DEPENDENTS"
    NOT_LEADER = "NOT_LEADER"
    NO_LEADER = "NO_LEADER"
    REQUEST_IDS_EXHAUSTED = "REQUEST_IDS_EXHAUSTED"
    DISK_PRESSURE = "DISK_PRESSURE"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    QUEUE_PAUSED = "QUEUE_PAUSED"
    OVERLOADED = "OVERLOADED"
    CALL_FULL = "CALL_FULL"
    NO_STATE = "NO_STATE"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    INTERNAL = "INTERNAL"


class TqError(Exception):
    """The base class of this package's errors.

    ``field`` is the request's field at fault, if there is one. ``metadata`` holds the facts that
    the reason's documentation names (limit, actual). ``retry_after_s`` is the broker's advice, in
    seconds, if it gave any.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Reason = Reason.UNSPECIFIED,
        field: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}" if reason is not Reason.UNSPECIFIED else message)
        self.message = message
        self.reason = reason
        self.field = field
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s


class RequestError(TqError):
    """The call is at fault; repeating it unchanged cannot succeed."""


class InvalidArgumentError(RequestError):
    """A field is missing, out of its range, or too large."""


class NotFoundError(RequestError):
    """No such task or queue, or a task past its retention."""


class ConflictError(RequestError):
    """The call conflicts with the present state; ``reason`` says how.

    A task with this id exists, the request id was used for another request, a node cannot be
    replaced, or a queue still holds tasks or has changed its settings.
    """


class LeaseLostError(RequestError):
    """The token is not the task's current lease."""


class AccessDeniedError(RequestError):
    """The caller is not authenticated, or not allowed to do this."""


class UnsupportedError(TqError):
    """The brokers do not know this method or a field of the request, or the cluster not yet.

    They are older than the caller: upgrade them first. Nothing was applied.
    """


class UnavailableError(TqError):
    """No leader was reached in time, or the client was closed. Nothing was applied."""


class BusyError(TqError):
    """The brokers refuse for now: overload, quota, full disk, paused queue. Nothing was applied."""


class OutcomeUnknownError(TqError):
    """The call was sent and may have been applied, or not: no answer came in time.

    ``metadata["request_id"]`` names the request, if it had an id.
    """


class ForkedError(TqError):
    """This process was forked from one with an open AsyncClient: no client can work here."""


class InternalError(TqError):
    """A bug in tq, or an answer that this client does not understand."""


_FAMILIES: dict[Reason, type[TqError]] = {
    Reason.INVALID_ARGUMENT: InvalidArgumentError,
    Reason.PAYLOAD_TOO_LARGE: InvalidArgumentError,
    Reason.NOT_FOUND: NotFoundError,
    Reason.TASK_EXISTS: ConflictError,
    Reason.REQUEST_ID_REUSED: ConflictError,
    # The refused retry itself changed nothing, but an earlier attempt may have.
    Reason.REQUEST_ID_EXPIRED: OutcomeUnknownError,
    Reason.LEASE_LOST: LeaseLostError,
    Reason.PERMISSION_DENIED: AccessDeniedError,
    Reason.UNAUTHENTICATED: AccessDeniedError,
    Reason.NOT_REPLACEABLE: ConflictError,
    Reason.QUEUE_IN_USE: ConflictError,
    Reason.SETTINGS_CHANGED: ConflictError,
    Reason.CYCLE: InvalidArgumentError,
    Reason.HAS_DEPENDENTS: ConflictError,
    Reason.UNSUPPORTED: UnsupportedError,
    Reason.NOT_LEADER: UnavailableError,
    Reason.NO_LEADER: UnavailableError,
    Reason.REQUEST_IDS_EXHAUSTED: BusyError,
    Reason.DISK_PRESSURE: BusyError,
    Reason.QUOTA_EXCEEDED: BusyError,
    Reason.QUEUE_PAUSED: BusyError,
    Reason.OVERLOADED: BusyError,
    Reason.CALL_FULL: BusyError,
    Reason.NO_STATE: UnavailableError,
    Reason.OUTCOME_UNKNOWN: OutcomeUnknownError,
    Reason.INTERNAL: InternalError,
}

# A status without ErrorInfo comes from gRPC itself or from something between the broker and us. A
# call that broke or ran out of time on an open connection may have been applied.
_BARE_CODES: dict[grpc.StatusCode, Reason] = {
    grpc.StatusCode.UNAVAILABLE: Reason.OUTCOME_UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.OUTCOME_UNKNOWN,
    grpc.StatusCode.CANCELLED: Reason.OUTCOME_UNKNOWN,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND: Reason.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED: Reason.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED: Reason.UNAUTHENTICATED,
    # gRPC's own answer to a method that the broker does not have.
    grpc.StatusCode.UNIMPLEMENTED: Reason.UNSUPPORTED,
    # gRPC's own refusal of a message above the size limit; the details say so.
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.PAYLOAD_TOO_LARGE,
}


def of_reason(
    reason: Reason,
    message: str,
    *,
    field: str = "",
    metadata: Mapping[str, str] | None = None,
    retry_after_s: float | None = None,
) -> TqError:
    """Make an error of the class that ``reason`` belongs to."""
    family = _FAMILIES.get(reason, InternalError)
    return family(
        message, reason=reason, field=field, metadata=metadata, retry_after_s=retry_after_s
    )


def of_item(error: errors_pb2.ItemError) -> TqError:
    """Translate the error of one refused item of a batch call."""
    name = errors_pb2.ErrorReason.Name(error.reason)
    retry_after_s = error.retry_after.ToTimedelta().total_seconds()
    return of_reason(
        _reason(name.removeprefix(_PREFIX)),
        error.message,
        field=error.field,
        metadata=error.metadata,
        retry_after_s=retry_after_s if error.HasField("retry_after") else None,
    )


def of_rpc(error: AioRpcError) -> TqError:
    """Translate a failed call."""
    info, retry = _details(error.trailing_metadata() or ())
    message = error.details() or error.code().name
    if info is None:
        reason = _BARE_CODES.get(error.code(), Reason.INTERNAL)
        return of_reason(reason, f"{error.code().name}: {message}")
    return of_reason(
        _reason(info.reason),
        message,
        field=info.metadata.get("field", ""),
        metadata=info.metadata,
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if retry else None,
    )


def _reason(name: str) -> Reason:
    """Read a reason; one that a newer broker added is UNSPECIFIED here."""
    return Reason.__members__.get(name, Reason.UNSPECIFIED)


def _details(
    metadata: Iterable[tuple[str, str | bytes]],
) -> tuple[error_details_pb2.ErrorInfo | None, error_details_pb2.RetryInfo | None]:
    """Find ErrorInfo of our domain and RetryInfo among a failed call's trailing metadata."""
    info: error_details_pb2.ErrorInfo | None = None
    retry: error_details_pb2.RetryInfo | None = None
    for key, value in metadata:
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                candidate = error_details_pb2.ErrorInfo.FromString(detail.value)
                info = candidate if candidate.domain == DOMAIN else info
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo.FromString(detail.value)
    return info, retry
