"""The interface of decisions to any store: numbered tables of ordered byte keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class View(Protocol):
    """The applied state, for reading."""

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return the value stored under ``key``, or None. A row that fails its CRC raises.

        ``key`` may have any length above zero; the answer is None for one that no row can have.
        """

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield at most ``limit`` rows with ``start <= key < stop``, in key order or reversed.

        The rows may be read lazily: do not write to ``table`` before the iteration has ended.
        """


class Workspace(View, Protocol):
    """A view that keeps writes in memory, and shows them to later reads.

    Its writes do not change the state: the changes travel through the log and are applied from
    there.
    """

    rows_read: int
    rows_written: int
    bytes_written: int
    """The work so far: the cost of the decision, and the size of its entry."""

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Store ``value`` under ``key``: 1 to 511 bytes."""

    def delete(self, table: int, key: bytes) -> None:
        """Remove ``key``; a missing key is no error."""
