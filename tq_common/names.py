"""The names that callers choose, and their rules (proto/tq/v1/task.proto).

Each check returns a match, or None for a text that cannot be such a name.
"""

from __future__ import annotations

import re
from typing import Final

QUEUE_NAME_CHARS_MAX: Final = 128
TASK_TYPE_CHARS_MAX: Final = 128
TASK_ID_CHARS_MAX: Final = 200
WORKER_ID_CHARS_MAX: Final = 200
"""Of any characters."""
REQUEST_ID_CHARS_MAX: Final = 128
"""Of any characters."""
NODE_ID_CHARS_MAX: Final = 64
NAMESPACE_NAME_CHARS_MAX: Final = 64

QUEUE_NAME_RULE: Final = f"1 to {QUEUE_NAME_CHARS_MAX} characters of A-Z a-z 0-9 . _ -"
TASK_TYPE_RULE: Final = f"1 to {TASK_TYPE_CHARS_MAX} characters of A-Z a-z 0-9 . _ : -"
TASK_ID_RULE: Final = f"1 to {TASK_ID_CHARS_MAX} characters of A-Z a-z 0-9 . _ : -"
NAMESPACE_NAME_RULE: Final = f"1 to {NAMESPACE_NAME_CHARS_MAX} characters of A-Z a-z 0-9 . _ -"

is_queue_name: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{QUEUE_NAME_CHARS_MAX}}}").fullmatch
is_task_type: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,{TASK_TYPE_CHARS_MAX}}}").fullmatch
is_task_id: Final = re.compile(rf"[A-Za-z0-9._:-]{{1,{TASK_ID_CHARS_MAX}}}").fullmatch
is_node_id: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{NODE_ID_CHARS_MAX - 1}}}").fullmatch
is_namespace_name: Final = re.compile(rf"[A-Za-z0-9._-]{{1,{NAMESPACE_NAME_CHARS_MAX}}}").fullmatch
