"""Checks of calls against the limits.

Each check returns the first fault found, or None. A message names the field, the value sent, and
the values that are valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tq.v1 import errors_pb2, task_pb2, worker_service_pb2
from tq.v1.task_options import LABELS, OPTIONS, find_fault
from tq_cluster.core.model.limits import SECOND_MS, Limits
from tq_cluster.core.model.operations import Refused
from tq_cluster.core.model.proto_time import duration, to_ms
from tq_common import names
from tq_common.limits import (
    CLAIM_QUEUES_MAX,
    CLAIM_TYPES_MAX,
    CONTENT_TYPE_BYTES_MAX,
    DEPENDENCIES_MAX,
    GIVE_UP_AFTER_S_MAX,
    GIVE_UP_AFTER_S_MIN,
    INITIAL_BACKOFF_S_MAX,
    LEASE_S_MAX,
    LEASE_S_MIN,
    MAX_BACKOFF_S_MAX,
    MULTIPLIER_MAX,
    PAUSE_S_MAX,
    RETRY_AFTER_S_MAX,
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
from tq_common.task_options import TaskOption

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
    if is_queue_name(spec.queue) is None:
        return invalid("queue", f"is {_shown(spec.queue)}; it takes {QUEUE_NAME_RULE}")
    if is_task_type(spec.type) is None:
        return check_type("type", spec.type)
    if len(spec.payload) > limits.payload_bytes_max:
        return too_large("payload", len(spec.payload), limits.payload_bytes_max)
    fault = find_fault(spec, _CHECKS, now_ms)
    if fault is None and spec.if_exists == task_pb2.IF_EXISTS_KEEP and not spec.task_id:
        return invalid("if_exists", "is KEEP, and task_id is empty; no task has such an id yet")
    if fault is None and spec.HasField("retry_policy"):
        fault = _check_retry_policy(spec.retry_policy)
    if fault is None and (spec.need or spec.depends_on):
        fault = _check_dependencies(spec)
    return fault


def _check_dependencies(spec: task_pb2.TaskSpec) -> Refused | None:
    """Check what a task depends on, but for whether those tasks exist."""
    dependencies = spec.depends_on
    count = len(dependencies)
    fault = check_at_most("depends_on", count, DEPENDENCIES_MAX)
    if fault is not None:
        return fault
    if spec.need > count:
        return invalid("need", f"is {spec.need}, of {count} in depends_on")
    named: set[str | int] = set()
    for place, dependency in enumerate(dependencies):
        field = f"depends_on[{place}]"
        kind = dependency.WhichOneof("on")
        if kind is None:
            return invalid(field, "names no task; it takes task_id or item")
        on = dependency.task_id if kind == "task_id" else dependency.item
        if kind == "task_id" and is_task_id(dependency.task_id) is None:
            return invalid(
                f"{field}.task_id", f"is {_shown(dependency.task_id)}; it takes {TASK_ID_RULE}"
            )
        if on in named:
            return invalid(field, f"names {kind} {on} a second time; each task is named once")
        named.add(on)
        for name in ("condition", "otherwise"):
            number, values = getattr(dependency, name), _DEPENDENCY_WORDS[name]
            if not 0 <= number < len(values):
                words = ", ".join(f"{word} ({each})" for each, word in enumerate(values))
                return invalid(f"{field}.{name}", f"is {number}; it takes {words}")
    return None


def check_dependencies_in_all(
    field: str, specs: Sequence[task_pb2.TaskSpec], limits: Limits
) -> Refused | None:
    """Check how many dependencies the tasks in ``field`` have together."""
    count = sum(len(spec.depends_on) for spec in specs)
    if count <= limits.call_dependencies_max:
        return None
    most = limits.call_dependencies_max
    return invalid(field, f"has {count} dependencies in all; at most {most} are taken")


_DEPENDENCY_WORDS: Final[Mapping[str, Sequence[str]]] = {
    "condition": task_pb2.Dependency.Condition.keys(),
    "otherwise": task_pb2.Dependency.Otherwise.keys(),
}


class _OptionChecks:
    """Checks of the values of a task's options against the bounds in task.proto."""

    def number(self, option: TaskOption, value: int) -> Refused | None:
        least = option.least or 0
        if option.most is not None and least <= value <= option.most:
            return None
        right = f"{least} to {option.most}"
        if least and option.default:
            right += f", or 0 for {option.default}"
        return invalid(option.field, f"is {value}; it takes {right}")

    def text(self, option: TaskOption, value: str | bytes) -> Refused | None:
        if option.rule:
            return _check_rule(option, str(value))
        return None if option.most is None else _check_bytes(option.field, value, option.most)

    def span(self, option: TaskOption, value: Duration) -> Refused | None:
        return check_span(option.field, value, option.least or 0, option.most or 0)

    def instant(self, option: TaskOption, value: Timestamp, now_ms: int) -> Refused | None:
        latest_ms = None if option.most is None else now_ms + option.most
        return check_instant(option.field, value, latest_ms)

    def choice(self, option: TaskOption, value: int) -> Refused | None:
        if value in option.choices.values():
            return None
        words = " or ".join(f"{word.upper()} ({number})" for word, number in option.choices.items())
        return invalid(option.field, f"is {value}; it takes {words}")

    def texts(self, option: TaskOption, value: Sequence[str]) -> Refused | None:
        fault = check_at_most(option.field, len(value), option.items_max or 0)
        for each in value if fault is None else ():
            fault = self.text(option, each)
            if fault is not None:
                break
        return fault

    def map(self, option: TaskOption, value: Mapping[str, str]) -> Refused | None:
        field, count = option.field, len(value)
        if count > (option.items_max or 0):
            most = option.items_max
            return invalid(field, f"has {count} entries; at most {most} are taken")
        for key, text in sorted(value.items()):
            if not 1 <= len(key) <= (option.key_max or 0):
                rule = f"keys take 1 to {option.key_max} characters"
                return invalid(field, f"has the key {_shown(key)}; {rule}")
            if len(text) > (option.most or 0):
                rule = f"values take up to {option.most}"
                return invalid(f"{field}[{key}]", f"has {len(text)} characters; {rule}")
        return None


_CHECKS: Final = _OptionChecks()
_IS_NAME: Final[Mapping[str, Callable[[str], object]]] = {
    option.rule: getattr(names, f"is_{option.rule.lower()}") for option in OPTIONS if option.rule
}


def _check_rule(option: TaskOption, text: str) -> Refused | None:
    if _IS_NAME[option.rule](text) is not None:
        return None
    rule = getattr(names, f"{option.rule}_RULE")
    return invalid(option.field, f"is {_shown(text)}; it takes {rule}")


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
    """Check the labels of a filter, which are bounded as those of a task are."""
    return _CHECKS.map(LABELS, labels)


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


def check_instant(field: str, instant: Timestamp, latest_ms: int | None = None) -> Refused | None:
    """Check an instant, which may be limited to a year from now."""
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


def _check_bytes(field: str, text: str | bytes, most: int) -> Refused | None:
    if len(text) <= most and (text.isascii() or _size(text) <= most):
        return None
    return invalid(field, f"has {_size(text)} bytes; at most {most} are taken")


def _size(text: str | bytes) -> int:
    """Return the bytes that a text has on the wire."""
    return len(text.encode()) if isinstance(text, str) else len(text)


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
