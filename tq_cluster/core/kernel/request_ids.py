"""Request ids: a repeated call is recognised and answered again, never executed again.

A row is kept under (time bucket, digest of principal and request id), so that a lookup tries the
few buckets of the window and whole buckets are dropped by range. Log time may run up to a tenth
faster than a caller's clock, so rows outlive the window in which callers may retry. If clocks that
were behind are corrected, log time is stepped, by minutes or days: ids do not age by such a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Protocol, TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from tq.internal.v1 import state_pb2
from tq.v1 import errors_pb2
from tq_cluster.core.kernel.batch import Space
from tq_cluster.core.kernel.validation import check_text, check_wait
from tq_cluster.core.model.limits import MINUTE_MS, SECOND_MS, Limits
from tq_cluster.core.model.operations import Caller, Refused
from tq_cluster.core.model.proto_time import to_ms
from tq_cluster.core.model.types import DurationMs
from tq_cluster.core.rows import tables
from tq_common.names import REQUEST_ID_CHARS_MAX

Method: TypeAlias = state_pb2.RequestRow.Method.ValueType

BUCKET_MS: Final = 6 * MINUTE_MS
_DIGEST_BYTES: Final = 16
_RETRY_AFTER_MS: Final = DurationMs(60 * SECOND_MS)
_TIMING_FIELDS: Final = ("retry_age", "wait")
"""Fields that may differ between a call and its retry."""


class Request(Protocol):
    """A public request that can be repeated under its id."""

    @property
    def request_id(self) -> str:
        """Empty: the call is not safe to retry."""

    @property
    def retry_age(self) -> Duration:
        """How long ago the id was first sent."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """A call not seen before; ``key`` is the key of its row, None if it is not remembered."""

    key: bytes | None
    method: Method
    body_digest: bytes = b""


def kept_ms(limits: Limits) -> int:
    """Return how long a row is kept at least, in ms of log time without steps: 1.2 windows."""
    return limits.request_window_ms * 6 // 5


def recall(
    space: Space, caller: Caller, method: Method, request: Request, body_digest: bytes = b""
) -> Fresh | state_pb2.RequestRow | Refused:
    """Return the row of this call if it is remembered, else a `Fresh` or a `Refused`.

    ``body_digest`` is the request's digest, if the caller has it already.
    """
    if not request.request_id:
        return Fresh(None, method)
    fault = check_text("request_id", request.request_id, REQUEST_ID_CHARS_MAX) or check_wait(
        "retry_age", request.retry_age
    )
    if fault is not None:
        return fault
    limits = space.limits
    oldest_ms = limits.request_window_ms - limits.request_slack_ms
    age_ms = to_ms(request.retry_age)
    if age_ms > oldest_ms:
        return Refused(
            reason=errors_pb2.ERROR_REASON_REQUEST_ID_EXPIRED,
            message=f"retry_age is {age_ms} ms: after {oldest_ms} ms a repeated call can no longer"
            " be told from a new one; look up what the first one did",
            field="retry_age",
            metadata={"field": "retry_age", "limit": str(oldest_ms), "actual": str(age_ms)},
        )
    digest = blake2b(
        f"{len(caller.principal)} {caller.principal}{request.request_id}".encode(),
        digest_size=_DIGEST_BYTES,
    ).digest()
    body_digest = body_digest or digest_of(request)
    newest = space.passed_ms // BUCKET_MS
    oldest = max(0, space.passed_ms - kept_ms(limits)) // BUCKET_MS
    for bucket in range(newest, oldest - 1, -1):
        row = space.workspace.get(tables.REQUESTS, tables.bucket_key(space.prefix, bucket) + digest)
        if row is not None:
            return _recognise(state_pb2.RequestRow.FromString(row), method, body_digest)
    counters = space.counters
    if counters.requests >= limits.requests_max or (
        counters.request_bytes >= limits.request_bytes_max
    ):
        return Refused(
            reason=errors_pb2.ERROR_REASON_REQUEST_IDS_EXHAUSTED,
            message=f"{counters.requests} request ids are remembered, in"
            f" {counters.request_bytes} bytes: no more are taken until the oldest are dropped",
            retry_after_ms=_RETRY_AFTER_MS,
        )
    return Fresh(tables.bucket_key(space.prefix, newest) + digest, method, body_digest)


def remember(space: Space, fresh: Fresh, row: state_pb2.RequestRow) -> None:
    """Remember a call that changed something; ``row`` says what, if a replay needs it."""
    if fresh.key is None:
        return
    row.method = fresh.method
    row.body_digest = fresh.body_digest
    row.at_ms = space.now_ms
    value = row.SerializeToString(deterministic=True)
    space.workspace.put(tables.REQUESTS, fresh.key, value)
    space.counters.requests += 1
    space.counters.request_bytes += len(fresh.key) + len(value)
    space.batch.changed = True


def forgotten_at_ms(key: bytes, limits: Limits) -> int:
    """Return when a row may be dropped, together with all of its bucket."""
    bucket = int.from_bytes(key[-_DIGEST_BYTES - 4 : -_DIGEST_BYTES], "big")
    return (bucket + 1) * BUCKET_MS + kept_ms(limits)


def _recognise(
    row: state_pb2.RequestRow, method: Method, body_digest: bytes
) -> state_pb2.RequestRow | Refused:
    if row.method == method and row.body_digest == body_digest:
        return row
    other = "body" if row.method == method else "call"
    return Refused(
        reason=errors_pb2.ERROR_REASON_REQUEST_ID_REUSED,
        message=f"this request_id was used for another {other}; every new call takes a new one",
        field="request_id",
        metadata={"field": "request_id"},
    )


def digest_of(request: Request) -> bytes:
    """Return a digest of a request's body without its timing fields; for any thread."""
    assert isinstance(request, Message)
    body = request
    timed = [name for name in _TIMING_FIELDS if name in request.DESCRIPTOR.fields_by_name]
    if any(request.HasField(name) for name in timed):
        body = type(request)()
        body.CopyFrom(request)
        for name in timed:
            body.ClearField(name)
    return blake2b(body.SerializeToString(deterministic=True), digest_size=_DIGEST_BYTES).digest()
