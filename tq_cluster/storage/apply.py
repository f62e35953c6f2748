"""What both stores share: which entries change the state, and what a workspace has written."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from tq.internal.v1 import log_pb2
from tq_cluster.core.types import AppliedAt
from tq_cluster.errors import FatalError
from tq_cluster.storage.rows import TABLE_COUNT, check_place, seal

ENTRY_FORMAT = 1
_NO_CHANGES = log_pb2.Entry()


def read_entry(entry: bytes, index: int, term: int, applied: AppliedAt) -> log_pb2.Entry | None:
    """Return the entry at ``index``; None when its header forbids it here.

    Raises FatalError for an entry that no correct node can have written, or not at this place.
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


class Written:
    """What a workspace has written so far: the last value a key, already sealed."""

    def __init__(self) -> None:
        self._tables: dict[int, dict[bytes, bytes | None]] = {}

    def put(self, table: int, key: bytes, value: bytes) -> bytes:
        """Note a put; return the sealed row."""
        check_place(table, key)
        sealed = seal(table, key, value)
        self._tables.setdefault(table, {})[key] = sealed
        return sealed

    def delete(self, table: int, key: bytes) -> None:
        check_place(table, key)
        self._tables.setdefault(table, {})[key] = None

    def tables(self) -> list[log_pb2.TableChanges]:
        """Return the changes in columns, sorted: every node then writes page by page."""
        changes = []
        for table, rows in sorted(self._tables.items()):
            puts = sorted((key, sealed) for key, sealed in rows.items() if sealed is not None)
            changes.append(
                log_pb2.TableChanges(
                    table=table,
                    put_keys=[key for key, _ in puts],
                    put_values=[sealed for _, sealed in puts],
                    deleted_keys=sorted(key for key, sealed in rows.items() if sealed is None),
                )
            )
        return changes
