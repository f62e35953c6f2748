"""What decisions read and write: numbered tables of ordered byte keys, whoever stores them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class View(Protocol):
    """The applied state, for reading."""

    def get(self, table: int, key: bytes) -> bytes | None:
        """Return the value stored under ``key``, or None. A row that fails its CRC raises.

        ``key`` may be of any length above zero: under one that no row can have there is none.
        """

    def scan(
        self, table: int, start: bytes, stop: bytes, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield at most ``limit`` rows with ``start <= key < stop``, by key, or backwards.

        The rows may be read lazily: do not write to ``table`` before the iteration has ended.
        """


class Workspace(View, Protocol):
    """A view that remembers what is written to it, and shows it to later reads.

    Nothing written here reaches the state: the changes travel through the log and are applied from
    there.
    """

    rows_read: int
    rows_written: int
    bytes_written: int
    """What was asked of it so far: the work that a decision is, and the entry that it makes."""

    def put(self, table: int, key: bytes, value: bytes) -> None:
        """Store ``value`` under ``key``: 1 to 511 bytes."""

    def delete(self, table: int, key: bytes) -> None:
        """Remove ``key``; one that is not there is no error."""
