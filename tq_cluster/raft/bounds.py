"""Bounds for every number and every text that a peer sends.

A term, an index or a clock that no broker can have reached is a mistake or a lie. If it were
accepted, it would be written to disk, and stay. It is refused before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tq.internal.v1 import peer_pb2
from tq_common.limits import TERM_MAX, TERM_STEP_MAX
from tq_common.names import is_node_id

INDEX_MAX: Final = 1 << 62
FILE_BYTES_MAX: Final = 1 << 40
"""The largest size of a state's file: the map of the store is no larger."""
WALL_MS_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, the end of a protobuf Timestamp's range."""
MEMBERS_MAX: Final = 7
WORD_CHARS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 500
RUNS_MAX: Final = 32
"""How many runs a node bars at a time."""
DIGEST_BYTES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Standing:
    """This node's term, log and round, by which a peer's message is checked."""

    term: int | None
    """None: it has neither voted nor received an entry, and has no term of its own yet."""
    last_index: int
    leads: bool
    latest_round: int


def shown(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """Return ``text`` as it may stand in a log line or on a terminal: printable, and not long."""
    # Cut first: the text may be long.
    cut = text[:chars_max] + ("..." if len(text) > chars_max else "")
    return "".join(char if char.isprintable() else "?" for char in cut)


def is_name(text: str) -> bool:
    """Whether that can be a node's id."""
    return len(text) <= WORD_CHARS_MAX and is_node_id(text) is not None


def _is_word(text: str) -> bool:
    return len(text) <= WORD_CHARS_MAX and text.isprintable()


def flaw_in_term(term: int, own: int | None) -> str | None:
    """Say what is wrong with a term that a peer or a caller names; None: it is possible."""
    if term >= TERM_MAX:
        return f"term {term} is over what any broker reaches, {TERM_MAX - 1}"
    # A node without a term cannot compare. It must be able to stand in a term above the peer's.
    highest = TERM_MAX // 2 if own is None else own + TERM_STEP_MAX
    if term > highest:
        return f"term {term} is more than {TERM_STEP_MAX} above its own, {own or 0}"
    return None


def flaw_in_log(term: int, last_term: int) -> str | None:
    """Say what is wrong with the term of a journal whose last entry is of ``last_term``.

    A node stands for election only if a majority would vote for it: no term is ever far above that
    of the last entry.
    """
    return flaw_in_term(max(term, last_term), last_term)


def flaw_in_wall(wall_ms: int) -> str | None:
    """Say what is wrong with a peer's wall clock; None: it is in bounds."""
    if 0 <= wall_ms <= WALL_MS_MAX:
        return None
    return f"a wall clock at {wall_ms} ms is outside of the years 1970 to 9999"


def flaw_in_hello(hello: peer_pb2.Hello) -> str | None:
    """Say what in a Hello is out of bounds; None: it can be judged."""
    if not is_name(hello.node_id):
        return "a node id is 1 to 64 of A-Z a-z 0-9 . _ - and starts with a letter or digit"
    if len(hello.member_ids) > MEMBERS_MAX or not all(map(is_name, hello.member_ids)):
        return f"there are at most {MEMBERS_MAX} members, each with a node id"
    for disks in (hello.incarnations, hello.recorded.incarnations):
        if len(disks) > MEMBERS_MAX or not all(map(is_name, disks)):
            return f"there are at most {MEMBERS_MAX} members, each with an incarnation"
        if not all(map(_is_word, disks.values())):
            return f"an incarnation has at most {WORD_CHARS_MAX} printable characters"
    if not (_is_word(hello.cluster_id) and _is_word(hello.incarnation)):
        return f"ids and incarnations have at most {WORD_CHARS_MAX} printable characters"
    if hello.dialled and not is_name(hello.dialled):
        return "who is dialled has a node id"
    if not (_is_word(hello.run) and all(map(_is_word, hello.barred_runs))):
        return f"a run has at most {WORD_CHARS_MAX} printable characters"
    if len(hello.barred_runs) > RUNS_MAX:
        return f"at most {RUNS_MAX} runs are barred"
    if len(hello.restored_from) > TEXT_CHARS_MAX:
        return f"restored_from has at most {TEXT_CHARS_MAX} characters"
    index = max(hello.applied_index, hello.recorded.index)
    if index >= INDEX_MAX:
        return f"entry {index} is over what any log reaches"
    return flaw_in_wall(hello.wall_ms)


def flaw_in(message: peer_pb2.PeerMessage, here: Standing) -> str | None:
    """Say what in an admitted peer's message is out of bounds; None: it can be acted upon."""
    kind = message.WhichOneof("body")
    match kind:
        case "append":
            return _flaw_in_append(message.append, here)
        case "append_reply":
            return _flaw_in_append_reply(message.append_reply, here)
        case "echo":
            echo = message.echo
            return (
                flaw_in_term(echo.term, here.term)
                or _flaw_in_round(echo.term, echo.round, here)
                or flaw_in_wall(echo.wall_ms)
            )
        case "pre_vote_request":
            return _flaw_in_candidate(message.pre_vote_request, here)
        case "vote_request":
            return _flaw_in_candidate(message.vote_request, here)
        case "snapshot_chunk":
            return _flaw_in_chunk(message.snapshot_chunk, here)
        case "snapshot_reply":
            reply = message.snapshot_reply
            return flaw_in_term(reply.term, here.term) or flaw_in_wall(reply.wall_ms)
        case "range_hash":
            index, digest = message.range_hash.index, message.range_hash.digest
            if index >= INDEX_MAX or len(digest) > DIGEST_BYTES_MAX:
                return f"a hash of {len(digest)} bytes at entry {index}"
            return None
        case "probe" | "pre_vote_reply" | "vote_reply" | "term_notice" | "timeout_now":
            return flaw_in_term(getattr(message, kind).term, here.term)
        case "ping":
            return flaw_in_wall(message.ping.wall_ms)
        case _:
            return None


def _flaw_in_append(append: peer_pb2.Append, here: Standing) -> str | None:
    flaw = flaw_in_term(append.term, here.term)
    if flaw is not None:
        return flaw
    last_index = append.prev_index + len(append.entries)
    if last_index >= INDEX_MAX or append.commit_index >= INDEX_MAX:
        return f"entries up to {last_index}, committed up to {append.commit_index}"
    term = append.prev_term
    for entry in append.entries:
        if entry.term < term:
            return f"an entry of term {entry.term} after one of term {term}"
        term = entry.term
    if term > append.term:
        return f"an entry of term {term} from a leader of term {append.term}"
    return None


def _flaw_in_append_reply(reply: peer_pb2.AppendReply, here: Standing) -> str | None:
    flaw = (
        flaw_in_term(reply.term, here.term)
        or _flaw_in_round(reply.term, reply.round, here)
        or flaw_in_wall(reply.wall_ms)
    )
    if flaw is not None:
        return flaw
    counts = here.leads and reply.term == here.term
    if counts and reply.accepted and reply.next_index > here.last_index + 1:
        return f"acknowledges entry {reply.next_index - 1}, the leader's last is {here.last_index}"
    if max(reply.next_index, reply.last_index) >= INDEX_MAX:
        return f"entry {max(reply.next_index, reply.last_index)} is over what any log reaches"
    return None


def _flaw_in_round(term: int, number: int, here: Standing) -> str | None:
    if here.leads and term == here.term and number > here.latest_round:
        return f"echoes round {number}, the leader's latest is {here.latest_round}"
    return None


def _flaw_in_candidate(
    request: peer_pb2.PreVoteRequest | peer_pb2.VoteRequest, here: Standing
) -> str | None:
    flaw = flaw_in_term(request.term, here.term)
    if flaw is not None:
        return flaw
    if request.last_term > request.term or request.last_index >= INDEX_MAX:
        return (
            f"asks for votes in term {request.term} with a log that ends at entry"
            f" {request.last_index} of term {request.last_term}"
        )
    return None


def _flaw_in_chunk(chunk: peer_pb2.SnapshotChunk, here: Standing) -> str | None:
    flaw = flaw_in_term(chunk.term, here.term)
    if flaw is not None:
        return flaw
    if chunk.last_term > chunk.term or chunk.last_index >= INDEX_MAX:
        return f"a snapshot of entry {chunk.last_index} of term {chunk.last_term}"
    if chunk.file_bytes > FILE_BYTES_MAX or chunk.offset + len(chunk.data) > chunk.file_bytes:
        return (
            f"{len(chunk.data)} bytes at {chunk.offset} of a snapshot of {chunk.file_bytes} bytes"
        )
    return None
