"""The limits of what callers send, each in this one place; the unit is in the name.

The public protos state them: the sizes of requests and the number of their items as options of the
methods, the others in the comments of the fields. tests/common/test_limits.py compares them.

Plain numbers: this module is imported by every process, and imports nothing.
"""

from __future__ import annotations

from typing import Final

_MINUTE_S: Final = 60
_HOUR_S: Final = 60 * _MINUTE_S
_DAY_S: Final = 24 * _HOUR_S

# ------------------------------------------------------------------------------------ a task

PAYLOAD_BYTES_MAX: Final = 10 << 20
"""Of one task's payload, and of one result."""
CONTENT_TYPE_BYTES_MAX: Final = 128
TRACEPARENT_BYTES_MAX: Final = 128
PRIORITY_MAX: Final = 255
MAX_ATTEMPTS_DEFAULT: Final = 5
MAX_ATTEMPTS_MAX: Final = 1_000
RUN_AT_AHEAD_S_MAX: Final = 366 * _DAY_S
TIMEOUT_S_MAX: Final = 7 * _DAY_S
RETENTION_S_MAX: Final = 366 * _DAY_S
INITIAL_BACKOFF_S_MAX: Final = _DAY_S
MAX_BACKOFF_S_MAX: Final = 7 * _DAY_S
MULTIPLIER_MAX: Final = 100
LABELS_MAX: Final = 32
LABEL_KEY_CHARS_MAX: Final = 64
LABEL_VALUE_CHARS_MAX: Final = 256
DEPENDENCIES_MAX: Final = 1_000

# ------------------------------------------------------------------------------------ calls

MESSAGE_BYTES_MAX: Final = 12 << 20
"""Of one call of any method, above any one task or result; most methods take less."""
SUBMIT_TASKS_MAX: Final = 1_000
SUBMIT_BYTES_MAX: Final = 10 << 20
"""Of the payloads of one Submit together."""
CALL_DEPENDENCIES_MAX: Final = 10_000
"""Of the tasks that one call submits together."""
PAGE_SIZE_MAX: Final = 1_000
REDRIVE_TASKS_MAX: Final = 1_000
DELETE_TASKS_MAX: Final = 1_000
PURGE_TASKS_MAX: Final = 1_000
FILTER_ERROR_BYTES_MAX: Final = 1 << 10
"""Of the text that a filter looks for in the errors of dead letters."""
WAIT_S_MAX: Final = _MINUTE_S
"""How long a Claim or a WaitTask waits at a broker."""

# ------------------------------------------------------------------------------------ of workers

CLAIM_TASKS_MAX: Final = 1_000
CLAIM_QUEUES_MAX: Final = 64
CLAIM_TYPES_MAX: Final = 64
"""Of the types that a claim names, and of those that it leaves out."""
LEASE_S_MIN: Final = 1
LEASE_S_DEFAULT: Final = 30
LEASE_S_MAX: Final = _HOUR_S
HEARTBEAT_LEASES_MAX: Final = 10_000
REPORTS_MAX: Final = 1_000
COMPLETION_TASKS_MAX: Final = 100
"""The most tasks that one completion submits."""
REPORT_SUBMIT_TASKS_MAX: Final = 1_000
"""The most tasks that the completions of one Report submit; more need another call."""
REPORT_SUBMIT_BYTES_MAX: Final = 4 << 20
ERROR_BYTES_MAX: Final = 8 << 10
"""How much of an error is kept; it may be longer."""
RETRY_AFTER_S_MAX: Final = 7 * _DAY_S
"""Of a failure that says itself when its task is tried again."""
PAUSE_S_MAX: Final = _DAY_S
"""How long a released task is not claimed again."""
GIVE_UP_AFTER_S_MIN: Final = 1
GIVE_UP_AFTER_S_MAX: Final = 7 * _DAY_S

# ------------------------------------------------------------------------------------ of brokers

TERM_MAX: Final = 1 << 62
"""No broker is ever in this term or a higher one."""
TERM_STEP_MAX: Final = 1 << 20
"""How far a term may be above the highest that is known: a million elections that were missed."""
