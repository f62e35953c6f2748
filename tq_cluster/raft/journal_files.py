"""Reads the journal at start: whole records are the log; damage is a torn write or an error."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from tq_cluster.errors import StartError
from tq_cluster.raft.disk import Disk
from tq_cluster.raft.log_index import LogIndex, Place
from tq_cluster.raft.records import (
    FIRST_WRITE_BYTES,
    PREAMBLE,
    DamagedError,
    Entry,
    Found,
    Header,
    Truncate,
    Vote,
    is_torn,
    scan,
)

_logger = logging.getLogger(__name__)

_NAME = re.compile(r"(\d{20})\.log")
_HINT = "restore this node from its peers: move its data directory away and start it empty"


class _BeginsTooLateError(Exception):
    """The log was cut below where it begins: its first segment cannot be the first."""


@dataclass(slots=True, kw_only=True)
class Segment:
    """A segment file of the journal."""

    number: int
    base: tuple[int, int] | None
    """Index and term of the last entry before it."""
    fresh: bool
    """The log restarts with this segment."""
    size: int = 0
    can_be_first: bool = True
    """Whether what stands in this segment and those after it is a whole log."""

    def truncated(self, index: int) -> None:
        """Note that the log was cut before ``index``."""
        if self.base is not None and self.base[0] >= index:
            self.can_be_first = False


@dataclass(slots=True)
class Opened:
    """What the files held."""

    index: LogIndex = field(default_factory=LogIndex)
    vote: Vote = field(default_factory=lambda: Vote(0, None))
    segments: list[Segment] = field(default_factory=list)


def segment_name(number: int) -> str:
    """Return the file name of the segment of that number."""
    return f"{number:020}.log"


def open_files(disk: Disk) -> Opened:
    """Replay all segments. On return the replayed records are durable, and no others remain."""
    try:
        opened = Opened()
        numbers = sorted(int(match[1]) for name in disk.names() if (match := _NAME.fullmatch(name)))
        for number in numbers:
            if number != numbers[0] and number - 1 not in numbers:
                raise StartError(f"the journal lacks {segment_name(number - 1)}; {_HINT}")
            try:
                _replay(opened, disk, number, last=number == numbers[-1])
            except _BeginsTooLateError as error:
                # Compaction deletes oldest first and was interrupted before it reached the segment
                # where the log can begin. All entries before that are in a state on disk.
                if number == numbers[-1]:
                    raise StartError(f"the journal contradicts itself: {error}; {_HINT}") from None
                opened.segments.clear()
                opened.index.clear()
        _tidy(opened, disk, numbers)
    except OSError as error:
        raise StartError(f"the journal cannot be read: {error}") from error
    return opened


def _tidy(opened: Opened, disk: Disk, numbers: list[int]) -> None:
    # The last process may have ended before its fsync, and the last segment may just have been cut.
    if opened.segments:
        disk.sync(segment_name(opened.segments[-1].number))
        disk.sync_names()
        for number in range(numbers[0], opened.segments[0].number):
            disk.delete(segment_name(number))
            disk.sync_names()


def _replay(opened: Opened, disk: Disk, number: int, *, last: bool) -> None:
    name = segment_name(number)
    data = disk.read(name, 0, disk.size(name))
    good_bytes = 0
    try:
        _check_preamble(name, data)
        for found in scan(number, data):
            _take(opened, number, found)
            good_bytes = found.offset + found.size
    except DamagedError as error:
        # A sole segment was whole once if it is not the first, or is larger than the first write.
        alone = not opened.segments and (number > 1 or len(data) > FIRST_WRITE_BYTES)
        if not last or (alone and not good_bytes) or not is_torn(number, data, good_bytes):
            raise StartError(
                f"the journal is damaged in {name}: {error}, and more follows that was complete;"
                f" nothing was changed; {_HINT}"
            ) from None
        _cut_tail(disk, name, good_bytes, len(data), error)
    if good_bytes:
        opened.segments[-1].size = good_bytes


def _check_preamble(name: str, data: bytes) -> None:
    if not data.startswith(PREAMBLE[:-1]) or len(data) < len(PREAMBLE):
        raise DamagedError("it does not begin as a segment does")
    if data[len(PREAMBLE) - 1] != PREAMBLE[-1]:
        raise StartError(
            f"{name} has journal format {data[len(PREAMBLE) - 1]}, this software knows"
            f" {PREAMBLE[-1]}: start a newer tq-cluster on it"
        )


def _cut_tail(disk: Disk, name: str, good_bytes: int, size: int, error: DamagedError) -> None:
    _logger.warning(
        "journal: an interrupted write was cut off",
        extra={
            "file": name,
            "kept_bytes": good_bytes,
            "cut_bytes": size - good_bytes,
            "reason": str(error),
        },
    )
    if good_bytes:
        disk.truncate(name, good_bytes)
    else:
        disk.delete(name)


def _take(opened: Opened, number: int, found: Found) -> None:
    """Apply the record to the log."""
    record, index = found.record, opened.index
    if isinstance(record, Header) != (found.offset == len(PREAMBLE)):
        raise StartError(f"{segment_name(number)} has no header, or two; {_HINT}")
    if isinstance(record, Header):
        _take_header(opened, number, record)
    elif isinstance(record, Entry):
        try:
            index.append(record.index, record.term, Place(number, found.offset, found.size))
        except ValueError as error:
            raise StartError(f"the journal contradicts itself: {error}; {_HINT}") from None
    elif isinstance(record, Truncate):
        if record.index <= index.first:
            raise _BeginsTooLateError(
                f"entry {record.index} was removed, but the log begins at {index.first}"
            )
        index.cut(record.index)
        for segment in opened.segments:
            segment.truncated(record.index)
    else:
        opened.vote = record


def _take_header(opened: Opened, number: int, header: Header) -> None:
    if header.number != number:
        raise StartError(f"{segment_name(number)} is a copy of segment {header.number}; {_HINT}")
    if header.fresh or not opened.segments:
        opened.segments.clear()
        opened.index.clear()
        if header.base is not None:
            opened.index.append(*header.base, Place(0, 0, 0))
    elif header.base != opened.index.base:
        raise StartError(
            f"the journal contradicts itself: {segment_name(number)} follows {header.base}, the"
            f" segments before it end at {opened.index.base}; {_HINT}"
        )
    opened.vote = header.vote
    opened.segments.append(Segment(number=number, base=header.base, fresh=header.fresh))
