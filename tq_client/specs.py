"""What a caller says of a task, in Python's own types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TypedDict, Unpack

from tq.v1.task_pb2 import RetryPolicy, TaskSpec


class SpecFields(TypedDict, total=False):
    """The optional fields of a task; units, bounds and defaults stand in proto/tq/v1/task.proto."""

    task_id: str
    content_type: str
    priority: int
    run_at: datetime
    timeout: timedelta
    max_attempts: int
    retry_policy: RetryPolicy
    labels: Mapping[str, str]
    retention: timedelta
    expire_at: datetime
    traceparent: str


def task_spec(
    queue: str, task_type: str, payload: bytes = b"", **fields: Unpack[SpecFields]
) -> TaskSpec:
    """Make a spec, for `submit_many` and for what a completion submits."""
    spec = TaskSpec(
        queue=queue,
        type=task_type,
        payload=payload,
        task_id=fields.get("task_id", ""),
        content_type=fields.get("content_type", ""),
        priority=fields.get("priority", 0),
        max_attempts=fields.get("max_attempts", 0),
        traceparent=fields.get("traceparent", ""),
    )
    if "labels" in fields:
        spec.labels.update(fields["labels"])
    if "retry_policy" in fields:
        spec.retry_policy.CopyFrom(fields["retry_policy"])
    if "timeout" in fields:
        spec.timeout.FromTimedelta(fields["timeout"])
    if "retention" in fields:
        spec.retention.FromTimedelta(fields["retention"])
    if "run_at" in fields:
        spec.run_at.FromDatetime(_aware("run_at", fields["run_at"]))
    if "expire_at" in fields:
        spec.expire_at.FromDatetime(_aware("expire_at", fields["expire_at"]))
    return spec


def _aware(field: str, instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError(
            f"{field}: a datetime without a time zone could mean any instant; give it one"
        )
    return instant
