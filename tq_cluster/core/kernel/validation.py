"""Checks of calls against the limits.

Each check returns the first fault found, or None. A message names the field, the value sent, and
the values that are valid.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tq.v1 import errors_pb2, task_pb2, worker_service_pb2
from tq_cluster.core.model.limits import SECOND_MS, Limits
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.model.proto_time import duration, to_ms
from tq_common.limits import (
    CLAIM_QUEUES_MAX,
    CLAIM_TYPES_MAX,
    CONTENT_TYPE_BYTES_MAX,
    GIVE_UP_AFTER_S_MAX,
    GIVE_UP_AFTER_S_MIN,
    INITIAL_BACKOFF_S_MAX,
    LABEL_KEY_CHARS_MAX,
    LABEL_VALUE_CHARS_MAX,
    LABELS_MAX,
    LEASE_S_MAX,
    LEASE_S_MIN,
    MAX_ATTEMPTS_DEFAULT,
    MAX_ATTEMPTS_MAX,
    MAX_BACKOFF_S_MAX,
    MULTIPLIER_MAX,
    PAUSE_S_MAX,
    PRIORITY_MAX,
    RETENTION_S_MAX,
    RETRY_AFTER_S_MAX,
    RUN_AT_AHEAD_S_MAX,
    TIMEOUT_S_MAX,
    TRACEPARENT_BYTES_MAX,
    WAIT_S_MAX,
)
from tq_common.names import (
    NAMESPACE_NAME_RULE,
    QUEUE_NAME_RULE,
    TASK_ID_RULE,
    TASK_TYPE_RULE,
    WORKER_ID_CHARS_MAX,
    is_namespace_name,
    is_queue_name,
    is_task_id,
    is_task_type,
)
from tq_common.quoting import quoted

_NANOS_A_SECOND = 1_000_000_000
_SPAN_SECONDS_MAX = 315_576_000_000
"""10,000 years, where Duration ends."""


def invalid(field: str, message: str) -> Refused:
    """Return the refusal of a call or an item for one of its fields."""
    return Refused(
        reason=errors_pb2.ERROR_REASON_INVALID_ARGUMENT,
        message=f"{field} {message}",
        field=field,
        metadata={"field": field},
    )


def too_large(field: str, actual: int, limit: int) -> Refused:
    """Return the refusal of a payload or a result for its size."""
    return Refused(
        reason=errors_pb2.ERROR_REASON_PAYLOAD_TOO_LARGE,
        message=f"{field} has {actual} bytes; at most {limit} are taken",
        field=field,
        metadata={"field": field, "limit": str(limit), "actual": str(actual)},
    )


def item_error(refused: Refused) -> errors_pb2.ItemError:
    """Return a refusal as the error of one item of a call."""
    error = errors_pb2.ItemError(
        reason=refused.reason,
        message=refused.message,
        field=refused.field,
        metadata=refused.metadata,
    )
    if refused.retry_after_ms is not None:
        error.retry_after.CopyFrom(duration(refused.retry_after_ms))
    return error


def check_count(field: str, count: int, most: int) -> Refused | None:
    """Check the number of items in a call that needs at least one."""
    if 1 <= count <= most:
        return None
    return invalid(field, f"has {count} items; 1 to {most} are taken")


def check_at_most(field: str, count: int, most: int) -> Refused | None:
    """Check the number of items in a call that needs none."""
    if count <= most:
        return None
    return invalid(field, f"has {count} items; at most {most} are taken")


def check_spec(spec: task_pb2.TaskSpec, limits: Limits, now_ms: int) -> Refused | None:
    """Check a task that is to be created."""
    if spec.task_id and is_task_id(spec.task_id) is None:
        return invalid("task_id", f"is {_shown(spec.task_id)}; it takes {TASK_ID_RULE}")
    if is_queue_name(spec.queue) is None:
        return invalid("queue", f"is {_shown(spec.queue)}; it takes {QUEUE_NAME_RULE}")
    if is_task_type(spec.type) is None:
        return check_type("type", spec.type)
    if len(spec.payload) > limits.payload_bytes_max:
        return too_large("payload", len(spec.payload), limits.payload_bytes_max)
    if spec.priority > PRIORITY_MAX:
        return invalid("priority", f"is {spec.priority}; it takes 0 to {PRIORITY_MAX}")
    if spec.max_attempts > MAX_ATTEMPTS_MAX:
        field, sent = "max_attempts", spec.max_attempts
        right = f"1 to {MAX_ATTEMPTS_MAX}, or 0 for {MAX_ATTEMPTS_DEFAULT}"
        return invalid(field, f"is {sent}; it takes {right}")
    if spec.if_exists:
        fault = _check_if_exists(spec)
        if fault is not None:
            return fault
    if spec.labels:
        fault = check_labels(spec.labels)
        if fault is not None:
            return fault
    return (
        _check_bytes("content_type", spec.content_type, CONTENT_TYPE_BYTES_MAX)
        or _check_bytes("traceparent", spec.traceparent, TRACEPARENT_BYTES_MAX)
        or _check_times(spec, now_ms)
    )


def _check_if_exists(spec: task_pb2.TaskSpec) -> Refused | None:
    if spec.if_exists not in task_pb2.IfExists.values():
        return invalid("if_exists", f"is {spec.if_exists}; it takes REFUSE (1) or KEEP (2)")
    if spec.if_exists == task_pb2.IF_EXISTS_KEEP and not spec.task_id:
        return invalid("if_exists", "is KEEP, and task_id is empty; no task has such an id yet")
    return None


def _check_times(spec: task_pb2.TaskSpec, now_ms: int) -> Refused | None:
    fault: Refused | None = None
    if spec.HasField("run_at"):
        latest_ms = now_ms + RUN_AT_AHEAD_S_MAX * SECOND_MS
        fault = _check_instant("run_at", spec.run_at, latest_ms)
    if fault is None and spec.HasField("expire_at"):
        fault = _check_instant("expire_at", spec.expire_at, None)
    if fault is None and spec.HasField("timeout"):
        fault = check_span("timeout", spec.timeout, 1, TIMEOUT_S_MAX * SECOND_MS)
    if fault is None and spec.HasField("retention"):
        fault = check_span("retention", spec.retention, 0, RETENTION_S_MAX * SECOND_MS)
    if fault is None and spec.HasField("retry_policy"):
        fault = _check_retry_policy(spec.retry_policy)
    return fault


def _check_retry_policy(policy: task_pb2.RetryPolicy) -> Refused | None:
    fault: Refused | None = None
    if policy.HasField("initial_backoff"):
        most_ms = INITIAL_BACKOFF_S_MAX * SECOND_MS
        fault = check_span("retry_policy.initial_backoff", policy.initial_backoff, 0, most_ms)
    if fault is None and policy.HasField("max_backoff"):
        most_ms = MAX_BACKOFF_S_MAX * SECOND_MS
        fault = check_span("retry_policy.max_backoff", policy.max_backoff, 0, most_ms)
    # Written so that a NaN fails too.
    if fault is None and policy.multiplier and not 1 <= policy.multiplier <= MULTIPLIER_MAX:
        field, sent = "retry_policy.multiplier", policy.multiplier
        fault = invalid(field, f"is {sent}; it takes 1 to {MULTIPLIER_MAX}, or 0 for 2")
    return fault


def check_labels(labels: Mapping[str, str]) -> Refused | None:
    """Check the labels of a task or of a filter."""
    if len(labels) > LABELS_MAX:
        return invalid("labels", f"has {len(labels)} entries; at most {LABELS_MAX} are taken")
    for key, value in sorted(labels.items()):
        if not 1 <= len(key) <= LABEL_KEY_CHARS_MAX:
            rule = f"keys take 1 to {LABEL_KEY_CHARS_MAX} characters"
            return invalid("labels", f"has the key {_shown(key)}; {rule}")
        if len(value) > LABEL_VALUE_CHARS_MAX:
            rule = f"values take up to {LABEL_VALUE_CHARS_MAX}"
            return invalid(f"labels[{key}]", f"has {len(value)} characters; {rule}")
    return None


def is_span(span: Duration) -> bool:
    """Return whether a Duration keeps to its definition: up to 10,000 years, one sign."""
    if abs(span.nanos) >= _NANOS_A_SECOND or abs(span.seconds) > _SPAN_SECONDS_MAX:
        return False
    return span.nanos == 0 or span.seconds == 0 or (span.nanos > 0) == (span.seconds > 0)


def check_wait(field: str, span: Duration) -> Refused | None:
    """Check a length of time that has no maximum; the whole of it need not be used."""
    if is_span(span) and to_ms(span) >= 0:
        return None
    return invalid(field, f"is {_shown_span(span)}; it takes 0 s and more")


def check_span(field: str, span: Duration, least_ms: int, most_ms: int) -> Refused | None:
    """Check a length of time, in whole ms; a fraction of a ms does not count."""
    if is_span(span) and least_ms <= to_ms(span) <= most_ms:
        return None
    sent = _shown_span(span)
    return invalid(field, f"is {sent}; it takes {least_ms / 1000:g} s to {most_ms / 1000:g} s")


def _shown_span(span: Duration) -> str:
    if is_span(span):
        return f"{span.seconds + span.nanos / _NANOS_A_SECOND:g} s"
    return f"no length ({span.seconds} seconds with {span.nanos} nanos)"


def _check_instant(field: str, instant: Timestamp, latest_ms: int | None) -> Refused | None:
    if not 0 <= instant.nanos < _NANOS_A_SECOND or not 0 <= instant.seconds <= _SECONDS_MAX:
        return invalid(field, "is no instant; it takes the years 1970 to 9999")
    if latest_ms is not None and to_ms(instant) > latest_ms:
        return invalid(field, "is too far ahead; it takes at most 366 d from now")
    return None


_SECONDS_MAX = 253_402_300_799
"""The last second of the year 9999, where Timestamp ends."""


def check_text(field: str, text: str, most: int) -> Refused | None:
    """Check a required text, which the caller chooses."""
    if 1 <= len(text) <= most:
        return None
    return invalid(field, f"has {len(text)} characters; it takes 1 to {most}")


def check_queue_name(field: str, name: str) -> Refused | None:
    """Check the name of a queue."""
    if is_queue_name(name) is not None:
        return None
    return invalid(field, f"is {_shown(name)}; it takes {QUEUE_NAME_RULE}")


def check_namespace_name(field: str, name: str) -> Refused | None:
    """Check the name of a namespace."""
    if is_namespace_name(name) is not None:
        return None
    return invalid(field, f"is {_shown(name)}; it takes {NAMESPACE_NAME_RULE}")


def check_type(field: str, task_type: str) -> Refused | None:
    """Check the type of a task."""
    if is_task_type(task_type) is not None:
        return None
    return invalid(field, f"is {_shown(task_type)}; it takes {TASK_TYPE_RULE}")


def _check_bytes(field: str, text: str, most: int) -> Refused | None:
    if len(text) <= most and (text.isascii() or len(text.encode()) <= most):
        return None
    return invalid(field, f"has {len(text.encode())} bytes; at most {most} are taken")


def check_claim(request: worker_service_pb2.ClaimRequest, limits: Limits) -> Refused | None:
    """Check a claim, except its request id."""
    fault = check_text("worker_id", request.worker_id, WORKER_ID_CHARS_MAX) or check_count(
        "queues", len(request.queues), CLAIM_QUEUES_MAX
    )
    for name in request.queues if fault is None else ():
        fault = fault or check_queue_name("queues", name)
    for field, types in (("types", request.types), ("except_types", request.except_types)):
        if fault is None and len(types) > CLAIM_TYPES_MAX:
            most = CLAIM_TYPES_MAX
            fault = invalid(field, f"has {len(types)} types; at most {most} are taken")
    if fault is None and not 1 <= request.max_tasks <= limits.claim_tasks_max:
        most = limits.claim_tasks_max
        fault = invalid("max_tasks", f"is {request.max_tasks}; it takes 1 to {most}")
    if fault is None and request.HasField("lease"):
        least_ms, most_ms = LEASE_S_MIN * SECOND_MS, LEASE_S_MAX * SECOND_MS
        fault = check_span("lease", request.lease, least_ms, most_ms)
    if fault is None and request.HasField("wait"):
        fault = check_span("wait", request.wait, 0, WAIT_S_MAX * SECOND_MS)
    return fault


def check_outcome(report: worker_service_pb2.TaskReport, limits: Limits) -> Refused | None:
    """Check the outcome in a report, except the tasks that a completion submits."""
    kind = report.WhichOneof("outcome")
    if kind is None:
        return invalid("outcome", "is missing; it takes complete, fail or release")
    if kind == "complete":
        completion = report.complete
        if len(completion.result) > limits.payload_bytes_max:
            return too_large("complete.result", len(completion.result), limits.payload_bytes_max)
        if len(completion.submit) > limits.completion_tasks_max:
            count, most = len(completion.submit), limits.completion_tasks_max
            return invalid("complete.submit", f"has {count} tasks; at most {most} are taken")
        return _check_bytes(
            "complete.content_type", completion.content_type, CONTENT_TYPE_BYTES_MAX
        )
    if kind == "fail" and report.fail.HasField("retry_after"):
        most_ms = RETRY_AFTER_S_MAX * SECOND_MS
        return check_span("fail.retry_after", report.fail.retry_after, 0, most_ms)
    if kind == "release":
        return _check_release(report.release)
    return None


def _check_release(release: worker_service_pb2.Release) -> Refused | None:
    fault = None
    if release.HasField("pause"):
        fault = check_span("release.pause", release.pause, 0, PAUSE_S_MAX * SECOND_MS)
    if fault is None and release.HasField("give_up_after"):
        least_ms, most_ms = GIVE_UP_AFTER_S_MIN * SECOND_MS, GIVE_UP_AFTER_S_MAX * SECOND_MS
        fault = check_span("release.give_up_after", release.give_up_after, least_ms, most_ms)
    return fault


def _shown(text: str) -> str:
    """Quote a text, cut to 60 characters."""
    return quoted(text) if text else "empty"
