"""The ids of tasks that were submitted without one."""

from __future__ import annotations

import re
from hashlib import blake2b

from tq_cluster.core.model.types import TaskId
from tq_common.names import TASK_ID_CHARS_MAX

_is_plain_seed = re.compile(r"[A-Za-z0-9._:-]{1,128}").fullmatch


def derived_id(seed: str, item: int) -> TaskId:
    """Return the id of the unnamed task at position ``item``: ``<seed>-<item>``.

    A client that lost the answer to a submit can derive its tasks' ids itself. A seed that is too
    long or has characters that an id may not have is replaced by its digest, in hex.
    """
    if _is_plain_seed(seed) is None:
        seed = blake2b(seed.encode(), digest_size=16).hexdigest()
    return TaskId(f"{seed}-{item}")


def echoed(task_id: str) -> str:
    """Return what a reply repeats of an id: one that is longer than any task's is cut.

    So a reply is never large because a request was.
    """
    return task_id[:TASK_ID_CHARS_MAX]


def child_seed(parent_id: str, token: int) -> str:
    """Return the seed for the ids of a completion's unnamed tasks."""
    return blake2b(f"{parent_id} {token}".encode(), digest_size=16).hexdigest()
