"""The check of entries, shared by both stores."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from tq.internal.v1 import log_pb2
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import FatalError
from tq_cluster.storage.rows import TABLE_COUNT

ENTRY_FORMAT = 1
_NO_CHANGES = log_pb2.Entry()


def read_entry(entry: bytes, index: int, term: int, applied: AppliedAt) -> log_pb2.Entry | None:
    """Return the entry at ``index``; None if its header does not allow it here.

    Raises FatalError for an entry that no correct node can have written at this index.
    """
    if index != applied.index + 1 or term < applied.term:
        raise FatalError(f"entry {index} of term {term} cannot follow {applied}")
    if not entry:
        return _NO_CHANGES
    try:
        parsed = log_pb2.Entry.FromString(entry)
    except DecodeError as error:
        raise FatalError(f"entry {index} of term {term} cannot be read: {error}") from error
    if parsed.format != ENTRY_FORMAT:
        raise FatalError(
            f"entry {index} of term {term} has format {parsed.format}, this version knows"
            f" {ENTRY_FORMAT}"
        )
    if parsed.decided_term != term or parsed.base_index != index - 1:
        return None
    for table in parsed.tables:
        if table.table >= TABLE_COUNT:
            raise FatalError(f"entry {index} of term {term} writes to table {table.table}")
        if len(table.put_keys) != len(table.put_values):
            raise FatalError(
                f"entry {index} of term {term} puts {len(table.put_keys)} keys and"
                f" {len(table.put_values)} values into table {table.table}"
            )
    return parsed
