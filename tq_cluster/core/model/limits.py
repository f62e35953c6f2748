"""The limits of calls and of the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    pass

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of calls; the defaults are those of the public protos."""

    payload_bytes_max: int = 10 << 20
    """Of one task's payload, and of one result."""
    reply_bytes_max: int = 12 << 20
    """The most bytes of a reply of many tasks, unless a single one is larger."""
    message_bytes_max: int = 12 << 20
    """What a node's gRPC accepts: above any one task or result. Each method accepts a little less,
    so that a call slightly over its limit gets our own error, not gRPC's."""
    answer_bytes_max: int = 32 << 20
    """What a node's gRPC sends: above any one task with payload, result and history."""
    submit_tasks_max: int = 1_000
    submit_bytes_max: int = 10 << 20
    """Of the payloads of one Submit together."""
    claim_tasks_max: int = 1_000
    reports_max: int = 1_000
    heartbeat_leases_max: int = 10_000
    completion_tasks_max: int = 100
    report_submit_tasks_max: int = 1_000
    """The most tasks that the completions of one Report submit; more need another call."""
    report_submit_bytes_max: int = 4 << 20
    redrive_tasks_max: int = 1_000
    delete_tasks_max: int = 1_000
    delete_rows_max: int = 1_500
    """About how many rows one call removes, in whole tasks; a large task has more rows."""
    purge_tasks_max: int = 1_000
    purge_tasks_default: int = 400
    """About 10 ms of deciding."""
    page_size_max: int = 1_000
    error_bytes_max: int = 8 << 10
    attempts_kept: int = 50
    request_window_ms: int = 10 * MINUTE_MS
    """Within it, by the caller's clock, a repeated request id is recognised."""
    request_slack_ms: int = 30 * SECOND_MS
    requests_max: int = 4_000_000
    request_bytes_max: int = 512 << 20


DEFAULT_LIMITS: Final = Limits()
