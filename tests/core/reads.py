"""Counts what a decision reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tq_cluster.storage.drafts import Draft


@dataclass
class Reads:
    """The reads so far: rows, and searches that found none."""

    count: int = 0


@contextmanager
def counted_reads() -> Iterator[Reads]:
    """Count what is read in drafts until the context ends."""
    reads = Reads()
    get, scan = Draft.get, Draft.scan

    def counting_get(self: Draft, table: int, key: bytes) -> bytes | None:
        reads.count += 1
        return get(self, table, key)

    def counting_scan(
        self: Draft,
        table: int,
        start: bytes,
        stop: bytes,
        *,
        limit: int,
        reverse: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        found = 0
        for row in scan(self, table, start, stop, limit=limit, reverse=reverse):
            found += 1
            reads.count += 1
            yield row
        reads.count += found == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draft, "get", counting_get)
        patch.setattr(Draft, "scan", counting_scan)
        yield reads
