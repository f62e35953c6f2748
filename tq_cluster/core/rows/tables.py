"""The schema: the numbered tables, their rows and their keys.

Every key starts with the group (u8, always 0 so far) and the namespace (u16). Numbers are
big-endian, so that byte order is numeric order; a user's string ends its key. Keys stay far below
the store's 511 bytes: the longest ends in a task id of 200.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

META: Final = 1
"""name -> CountersRow, ClusterRow, RestoredRow, ScrubRow, BackfillRow. In namespace 0 only: they
are the group's.
"""
QUEUES: Final = 2
"""queue id -> QueueRow"""
QUEUE_IDS: Final = 3
"""queue name -> queue id (u32)"""
TASK_IDS: Final = 4
"""task id -> task number (u64)"""
TASKS: Final = 5
"""task number -> TaskRow"""
SPECS: Final = 6
"""task number -> tq.v1.TaskSpec, with a payload of up to INLINE_BYTES_MAX"""
PAYLOADS: Final = 7
"""task number, chunk (u16) -> a piece of a larger payload"""
RESULTS: Final = 8
"""task number -> ResultRow, if the task has a result"""
RESULT_CHUNKS: Final = 9
"""task number, chunk (u16) -> a piece of a larger result"""
ATTEMPTS: Final = 10
"""task number, place in the history (u32) -> AttemptRow"""
BY_STATE: Final = 11
"""state (u8), queue id, task number -> LeaseRow for RUNNING, else nothing. Every task, once."""
LANES: Final = 12
"""queue id, band (u8), start tag (u64), lane (u32) -> nothing. The lanes that hold ready tasks."""
READY: Final = 13
"""queue id, lane (u32), 255 - priority (u8), due at, task number -> digest of its type (4 bytes).
The PENDING tasks. The value is empty if an earlier version wrote the row.
"""
DUE: Final = 14
"""due at, task number -> nothing. The SCHEDULED and RETRYING tasks."""
EXPIRING: Final = 15
"""expire at, task number -> nothing. The waiting tasks that may expire."""
DEAD_LETTERS: Final = 16
"""queue id or 0 for every queue, finished at, task number -> nothing. The FAILED tasks, twice."""
RETIRED: Final = 17
"""retire at, task number -> task id. The terminal tasks."""
REQUESTS: Final = 18
"""bucket of time (u32), digest of principal and request id (16 bytes) -> RequestRow"""
READY_BY_TYPE: Final = 19
"""queue id, digest of the type (u32), 255 - priority (u8), due at, task number -> nothing. The rows
of READY, each with its type in place of its lane. From cluster version 3 on.
"""
CONTINUATIONS: Final = 20
"""turn (u64) -> ContinuationRow. What is to go on, the next first. From cluster version 4 on."""
DEPENDENCIES: Final = 21
"""task number -> DependenciesRow, if the task has dependencies. From cluster version 4 on."""
DEPENDENTS: Final = 22
"""task waited for (u64), group (u8), task number -> DependentRow. From cluster version 4 on.

Group AFTER_SUCCESS: the dependent waits for a completion. AFTER_FAILURE: it may start if there is
none.
"""
AFTER_SUCCESS: Final = 0
AFTER_FAILURE: Final = 1

INLINE_BYTES_MAX: Final = 4 << 10
"""A payload or result up to this size is in its spec's or result's row, at no extra read."""
CHUNK_BYTES: Final = 64 << 10

ALL_QUEUES: Final = 0
"""Stands for every queue in DEAD_LETTERS; no queue has this id."""

_PREFIX = Struct(">BH")
_QUEUE = Struct(">3sI")
_NUMBER = Struct(">3sQ")
_CHUNK = Struct(">3sQH")
_ATTEMPT = Struct(">3sQI")
_BY_STATE = Struct(">3sBIQ")
_STATE = Struct(">3sBI")
_LANE = Struct(">3sIBQI")
_READY = Struct(">3sIIBQQ")
_AT = Struct(">3sQQ")
_DEAD_LETTER = Struct(">3sIQQ")
_BUCKET = Struct(">3sI")
_DEPENDENT = Struct(">3sQBQ")


def prefix_of(namespace: int) -> bytes:
    """Return the prefix of every key of ``namespace``."""
    return _PREFIX.pack(0, namespace)


def namespace_of(key: bytes) -> int:
    """Read the namespace off a key, or off a prefix."""
    return int.from_bytes(key[1:3], "big")


GROUP_PREFIX: Final = prefix_of(0)
COUNTERS_KEY: Final = GROUP_PREFIX + b"counters"
CLUSTER_KEY: Final = GROUP_PREFIX + b"cluster"
SCRUB_KEY: Final = GROUP_PREFIX + b"scrub"
RESTORED_KEY: Final = GROUP_PREFIX + b"restored"
BACKFILL_KEY: Final = GROUP_PREFIX + b"backfill"


def queue_key(prefix: bytes, queue_id: int) -> bytes:
    """Key of QUEUES."""
    return _QUEUE.pack(prefix, queue_id)


def name_key(prefix: bytes, name: str) -> bytes:
    """Key of QUEUE_IDS and TASK_IDS, whose names are ASCII and bounded by validation."""
    return prefix + name.encode()


def number_key(prefix: bytes, number: int) -> bytes:
    """Key of TASKS, SPECS, RESULTS and DEPENDENCIES, and of CONTINUATIONS by their turns."""
    return _NUMBER.pack(prefix, number)


def chunk_key(prefix: bytes, number: int, chunk: int) -> bytes:
    """Key of PAYLOADS and RESULT_CHUNKS."""
    return _CHUNK.pack(prefix, number, chunk)


def attempt_key(prefix: bytes, number: int, place: int) -> bytes:
    """Key of ATTEMPTS."""
    return _ATTEMPT.pack(prefix, number, place)


def by_state_key(prefix: bytes, state: int, queue_id: int, number: int) -> bytes:
    """Key of BY_STATE."""
    return _BY_STATE.pack(prefix, state, queue_id, number)


def state_prefix(prefix: bytes, state: int, queue_id: int) -> bytes:
    """Return the prefix of the keys of BY_STATE for one state of one queue."""
    return _STATE.pack(prefix, state, queue_id)


def lane_key(prefix: bytes, queue_id: int, band: int, start_tag: int, lane: int) -> bytes:
    """Key of LANES."""
    return _LANE.pack(prefix, queue_id, band, start_tag, lane)


def ready_key(
    prefix: bytes, queue_id: int, lane: int, priority: int, due_at_ms: int, number: int
) -> bytes:
    """Key of READY: the higher priority first, then the earlier due, then the earlier submitted."""
    return _READY.pack(prefix, queue_id, lane, 255 - priority, due_at_ms, number)


def by_type_key(ready_key: bytes, digest: int) -> bytes:
    """Key of READY_BY_TYPE for the task with this key in READY and this type digest."""
    return b"%b%b%b" % (ready_key[:7], digest.to_bytes(4, "big"), ready_key[11:])


def priority_end(prefix: bytes, queue_id: int, lane: int, priority: int) -> bytes:
    """Return the first key of READY after those of one priority.

    It also serves READY_BY_TYPE, whose lane is a type's digest; so does `lane_end`.
    """
    following = (queue_id << 40) + (lane << 8) + 256 - priority
    return prefix + following.to_bytes(9, "big")


def lane_end(prefix: bytes, queue_id: int, lane: int) -> bytes:
    """Return the first key of READY after those of one lane."""
    return priority_end(prefix, queue_id, lane, 0)


def at_key(prefix: bytes, at_ms: int, number: int) -> bytes:
    """Key of DUE, EXPIRING and RETIRED."""
    return _AT.pack(prefix, at_ms, number)


def dead_letter_key(prefix: bytes, queue_id: int, finished_at_ms: int, number: int) -> bytes:
    """Key of DEAD_LETTERS."""
    return _DEAD_LETTER.pack(prefix, queue_id, finished_at_ms, number)


def bucket_key(prefix: bytes, bucket: int) -> bytes:
    """Return the prefix of the keys of REQUESTS in one bucket."""
    return _BUCKET.pack(prefix, bucket)


def dependent_key(prefix: bytes, number: int, group: int, dependent: int) -> bytes:
    """Key of DEPENDENTS."""
    return _DEPENDENT.pack(prefix, number, group, dependent)


def end_of(prefix: bytes) -> bytes:
    """Return the first key after all that start with ``prefix``."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,))


def split_number(key: bytes) -> int:
    """Read the task number off a key that ends in one."""
    return int.from_bytes(key[-8:], "big")


def split_at(key: bytes) -> tuple[int, int]:
    """Read instant and task number off a key of DUE, EXPIRING, RETIRED or DEAD_LETTERS."""
    return int.from_bytes(key[-16:-8], "big"), int.from_bytes(key[-8:], "big")


def split_ready(key: bytes) -> tuple[int, int, int]:
    """Read priority, instant due and task number off a key of READY."""
    _, _, _, rising, due_at_ms, number = _READY.unpack(key)
    return 255 - rising, due_at_ms, number


def split_type(key: bytes) -> int:
    """Read the digest of the type off a key of READY_BY_TYPE."""
    return int.from_bytes(key[7:11], "big")


def split_lane(key: bytes) -> int:
    """Read the lane off a key of LANES."""
    return int.from_bytes(key[-4:], "big")
