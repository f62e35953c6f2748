"""The limits of calls and of the state.

Those that callers meet are in `tq_common.limits`; a test may decide with others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tq_common import limits as public
from tq_common.durations import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

__all__ = ["DAY_MS", "DEFAULT_LIMITS", "HOUR_MS", "MINUTE_MS", "SECOND_MS", "Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of calls; the defaults are those of the public protos."""

    payload_bytes_max: int = public.PAYLOAD_BYTES_MAX
    """Of one task's payload, and of one result."""
    reply_bytes_max: int = 12 << 20
    """The most bytes of a reply of many tasks, unless a single one is larger."""
    message_bytes_max: int = public.MESSAGE_BYTES_MAX
    """What a node's gRPC accepts: above any one task or result. Each method accepts a little less,
    so that a call slightly over its limit gets our own error, not gRPC's."""
    answer_bytes_max: int = 32 << 20
    """What a node's gRPC sends: above any one task with payload, result and history."""
    submit_tasks_max: int = public.SUBMIT_TASKS_MAX
    submit_bytes_max: int = public.SUBMIT_BYTES_MAX
    """Of the payloads of one Submit together."""
    call_dependencies_max: int = public.CALL_DEPENDENCIES_MAX
    """Of the tasks that one call submits, or its completions."""
    claim_tasks_max: int = public.CLAIM_TASKS_MAX
    reports_max: int = public.REPORTS_MAX
    heartbeat_leases_max: int = public.HEARTBEAT_LEASES_MAX
    completion_tasks_max: int = public.COMPLETION_TASKS_MAX
    report_submit_tasks_max: int = public.REPORT_SUBMIT_TASKS_MAX
    """The most tasks that the completions of one Report submit; more need another call."""
    report_submit_bytes_max: int = public.REPORT_SUBMIT_BYTES_MAX
    redrive_tasks_max: int = public.REDRIVE_TASKS_MAX
    delete_tasks_max: int = public.DELETE_TASKS_MAX
    delete_rows_max: int = 1_500
    """About how many rows one call removes, in whole tasks; a large task has more rows."""
    purge_tasks_max: int = public.PURGE_TASKS_MAX
    purge_tasks_default: int = 400
    """About 10 ms of deciding."""
    page_size_max: int = public.PAGE_SIZE_MAX
    error_bytes_max: int = public.ERROR_BYTES_MAX
    attempts_kept: int = 50
    request_window_ms: int = 10 * MINUTE_MS
    """Within it, by the caller's clock, a repeated request id is recognised."""
    request_slack_ms: int = 30 * SECOND_MS
    requests_max: int = 4_000_000
    request_bytes_max: int = 512 << 20


DEFAULT_LIMITS: Final = Limits()
