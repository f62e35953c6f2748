"""The limits are those that the public protos state, in options and in comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest
from google.protobuf.descriptor import MethodDescriptor

from tq.v1 import (
    cluster_service_pb2,
    conversation_service_pb2,
    options_pb2,
    queue_service_pb2,
    task_service_pb2,
    worker_service_pb2,
)
from tq_common import limits, names

PROTOS = Path(__file__).parents[2] / "proto" / "tq" / "v1"
DAY_S, HOUR_S = 86_400, 3_600

COMMENTS = {
    "TaskSpec.task_id": "{TASK_ID_RULE} and unique in the cluster",
    "TaskSpec.queue": "Required. {QUEUE_NAME_RULE}.",
    "TaskSpec.type": "which handler runs it. {TASK_TYPE_RULE}",
    "TaskSpec.payload": "At most {PAYLOAD_BYTES_MAX}.",
    "TaskSpec.content_type": "At most {CONTENT_TYPE_BYTES_MAX}.",
    "TaskSpec.priority": "least urgent) to {PRIORITY_MAX}.",
    "TaskSpec.run_at": "At most {RUN_AT_AHEAD_S_MAX} ahead.",
    "TaskSpec.timeout": "At least 1 ms, at most {TIMEOUT_S_MAX}.",
    "TaskSpec.max_attempts": "the default, {MAX_ATTEMPTS_DEFAULT}. At most {MAX_ATTEMPTS_MAX}.",
    "TaskSpec.labels": (
        "At most {LABELS_MAX}; keys 1 to {LABEL_KEY_CHARS_MAX} characters,"
        " values up to {LABEL_VALUE_CHARS_MAX}."
    ),
    "TaskSpec.retention": "At most {RETENTION_S_MAX}.",
    "TaskSpec.traceparent": "At most {TRACEPARENT_BYTES_MAX}.",
    "RetryPolicy.initial_backoff": "At most {INITIAL_BACKOFF_S_MAX}.",
    "RetryPolicy.multiplier": "At least 1, at most {MULTIPLIER_MAX}.",
    "RetryPolicy.max_backoff": "At most {MAX_BACKOFF_S_MAX}.",
    "TaskSpec.depends_on": "At most {DEPENDENCIES_MAX}, and {CALL_DEPENDENCIES_MAX} in a call.",
    "Attempt.error": "At most {ERROR_BYTES_MAX} of it.",
    "Task.last_error": "at most {ERROR_BYTES_MAX} of it.",
    "Task.result": "At most {PAYLOAD_BYTES_MAX}.",
    "SubmitRequest.request_id": "1 to {REQUEST_ID_CHARS_MAX} characters",
    "SubmitRequest.tasks": (
        "1 to {SUBMIT_TASKS_MAX} tasks, with payloads of at most {SUBMIT_BYTES_MAX} and at most"
        " {CALL_DEPENDENCIES_MAX} dependencies in all."
    ),
    "SubmitTogetherRequest.tasks": (
        "1 to {SUBMIT_TASKS_MAX} tasks in any order, with payloads of at most {SUBMIT_BYTES_MAX}"
        " and at most {CALL_DEPENDENCIES_MAX} dependencies in all."
    ),
    "ListTasksRequest.labels": "at most {LABELS_MAX}, as a task has.",
    "ListTasksRequest.page_size": "1 to {PAGE_SIZE_MAX};",
    "WaitTaskRequest.wait": "or {WAIT_S_MAX}.",
    "ListQueuesRequest.page_size": "1 to {PAGE_SIZE_MAX};",
    "ListDeadLettersRequest.page_size": "1 to {PAGE_SIZE_MAX};",
    "RedriveRequest.task_ids": "at most {REDRIVE_TASKS_MAX};",
    "RedriveRequest.max_tasks": "1 to {REDRIVE_TASKS_MAX} a call;",
    "DeleteDeadLettersRequest.task_ids": "at most {DELETE_TASKS_MAX};",
    "DeleteDeadLettersRequest.max_tasks": "1 to {DELETE_TASKS_MAX} a call;",
    "DeadLetterFilter.error": "of at most {FILTER_ERROR_BYTES_MAX}, anywhere",
    "PurgeQueueRequest.max_tasks": "1 to {PURGE_TASKS_MAX} a call;",
    "ClaimRequest.worker_id": "1 to {WORKER_ID_CHARS_MAX} characters",
    "ClaimRequest.queues": "1 to {CLAIM_QUEUES_MAX} queues",
    "ClaimRequest.max_tasks": "1 to {CLAIM_TASKS_MAX}.",
    "ClaimRequest.lease": "{LEASE_S_MIN} to {LEASE_S_MAX}. Absent: {LEASE_S_DEFAULT}.",
    "ClaimRequest.wait": "At most {WAIT_S_MAX}.",
    "ClaimRequest.types": "At most {CLAIM_TYPES_MAX}.",
    "ClaimRequest.except_types": "At most {CLAIM_TYPES_MAX}.",
    "HeartbeatRequest.leases": "At most {HEARTBEAT_LEASES_MAX}.",
    "ReportRequest.reports": "1 to {REPORTS_MAX}.",
    "Completion.result": "At most {PAYLOAD_BYTES_MAX}.",
    "Completion.submit": (
        "At most {COMPLETION_TASKS_MAX}, of {REPORT_SUBMIT_BYTES_MAX}. One Report creates at most"
        " {REPORT_SUBMIT_TASKS_MAX} tasks of {REPORT_SUBMIT_BYTES_MAX} in all"
    ),
    "Failure.error": "At most {ERROR_BYTES_MAX} of it are kept.",
    "Failure.retry_after": "At most {RETRY_AFTER_S_MAX}.",
    "Release.pause": "At most {PAUSE_S_MAX}.",
    "Release.give_up_after": "{GIVE_UP_AFTER_S_MIN} to {GIVE_UP_AFTER_S_MAX}.",
    "ListWorkersRequest.page_size": "1 to {PAGE_SIZE_MAX};",
}
"""A part of the comment of each field that has a limit."""

OPTIONS = {
    ("Submit", "tasks"): limits.SUBMIT_TASKS_MAX,
    ("Submit", "tasks.labels"): limits.LABELS_MAX,
    ("Submit", "tasks.depends_on"): limits.DEPENDENCIES_MAX,
    ("SubmitTogether", "tasks"): limits.SUBMIT_TASKS_MAX,
    ("SubmitTogether", "tasks.labels"): limits.LABELS_MAX,
    ("SubmitTogether", "tasks.depends_on"): limits.DEPENDENCIES_MAX,
    ("ListTasks", "labels"): limits.LABELS_MAX,
    ("Redrive", "task_ids"): limits.REDRIVE_TASKS_MAX,
    ("DeleteDeadLetters", "task_ids"): limits.DELETE_TASKS_MAX,
    ("Claim", "queues"): limits.CLAIM_QUEUES_MAX,
    ("Claim", "types"): limits.CLAIM_TYPES_MAX,
    ("Claim", "except_types"): limits.CLAIM_TYPES_MAX,
    ("Heartbeat", "leases"): limits.HEARTBEAT_LEASES_MAX,
    ("Report", "reports"): limits.REPORTS_MAX,
    ("Report", "reports.complete.submit"): limits.COMPLETION_TASKS_MAX,
    ("Report", "reports.complete.submit.labels"): limits.LABELS_MAX,
    ("Report", "reports.complete.submit.depends_on"): limits.DEPENDENCIES_MAX,
}
"""The limit of each field that several processes look at, by method and path."""

IN_A_RULE = {"QUEUE_NAME_CHARS_MAX", "TASK_ID_CHARS_MAX", "TASK_TYPE_CHARS_MAX"}
IN_NO_COMMENT = {
    "MESSAGE_BYTES_MAX",  # above the request_bytes_max of every method
    "NAMESPACE_NAME_CHARS_MAX",  # of metadata: tests/service/test_namespaces.py
    "NAMESPACE_NAME_RULE",  # as above
    "NODE_ID_CHARS_MAX",  # no caller sends one
    "TERM_MAX",  # no caller sends one
    "TERM_STEP_MAX",  # as above
}


def said(name: str) -> str:
    """A constant as the comments write it."""
    value = vars(names)[name] if name in vars(names) else vars(limits)[name]
    if isinstance(value, str):
        return value
    if "_BYTES_" in name:
        for unit, one in (("MiB", 1 << 20), ("KiB", 1 << 10), ("bytes", 1)):
            if value >= one:
                return f"{value // one} {unit}"
    if "_S_" in name:
        for unit, one, least in (("d", DAY_S, 2 * DAY_S), ("h", HOUR_S, HOUR_S), ("s", 1, 0)):
            if value >= least:
                return f"{value // one} {unit}"
    return f"{value:,}"


def named(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def comments() -> Iterator[tuple[str, str]]:
    """Each field of the public protos, as Message.field, with its comment in one line."""
    for path in sorted(PROTOS.glob("*.proto")):
        around: list[str] = []
        comment: list[str] = []
        for line in map(str.strip, path.read_text().splitlines()):
            if line.startswith("//"):
                comment.append(line.removeprefix("//").strip())
                continue
            if around and (field := re.search(r"(\w+) = \d+(;| \[.*)$", line)):
                yield f"{around[-1]}.{field[1]}", " ".join(comment)
            elif line.endswith("{"):
                around.append(line.split()[1])
            elif line in {"}", "};"}:
                around.pop()
            comment = []


def methods() -> Iterator[MethodDescriptor]:
    for module in (
        cluster_service_pb2,
        conversation_service_pb2,
        queue_service_pb2,
        task_service_pb2,
        worker_service_pb2,
    ):
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from service.methods


@pytest.mark.parametrize("field", COMMENTS)
def test_a_limit_is_the_one_that_the_comment_of_its_field_states(field: str) -> None:
    template = COMMENTS[field]
    stated = template.format_map({name: said(name) for name in named(template)})

    assert stated in dict(comments())[field]


def test_every_limit_is_compared_with_a_comment() -> None:
    compared = {name for template in COMMENTS.values() for name in named(template)}
    constants = {
        name
        for module in (limits, names)
        for name in vars(module)
        if name.isupper() and not name.startswith("_")
    }

    assert constants - IN_A_RULE - IN_NO_COMMENT == compared


def test_a_limit_is_the_one_in_the_options_of_its_method() -> None:
    stated = {
        (method.name, limit.field): limit.items_max
        for method in methods()
        for limit in method.GetOptions().Extensions[options_pb2.policy].limits
    }

    assert {place: stated[place] for place in OPTIONS} == OPTIONS
