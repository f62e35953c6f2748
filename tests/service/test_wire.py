"""A request's bytes are looked at before they are parsed: what is counted, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from tq.v1 import task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.service import wire
from tq_cluster.service.wire import RefusedRequestError, rules_of

SUBMIT = rules_of(task_service_pb2.SubmitRequest.DESCRIPTOR, {"tasks": 3, "tasks.labels": 2})
LIST = rules_of(task_service_pb2.ListTasksRequest.DESCRIPTOR, {"states": 4, "labels": 2})
REPORT = rules_of(
    worker_service_pb2.ReportRequest.DESCRIPTOR, {"reports": 3, "reports.complete.submit": 2}
)


def walked(raw: bytes, rules: wire.MessageRules = SUBMIT) -> list[int]:
    """Walk to the end; where the request may be cut."""
    cuts: list[int] = []
    for _ in wire.walk(raw, rules, cuts):
        pass
    return cuts


def refused(raw: bytes, rules: wire.MessageRules = SUBMIT) -> RefusedRequestError:
    with pytest.raises(RefusedRequestError) as caught:
        walked(raw, rules)
    return caught.value


def one(number: int, value: bytes) -> bytes:
    return wire.field_bytes(number, value)


def test_as_many_items_as_the_limit_are_taken_and_one_more_is_refused_by_field_and_limit() -> None:
    walked(b"\x1a\x00" * 3)

    error = refused(b"\x1a\x00" * 4).refused

    assert error.field == "tasks"
    assert error.metadata == {"limit": "3", "actual": "over 3"}
    assert error.message == "tasks has over 3 items; at most 3 are taken"


def test_a_walk_ends_at_the_first_item_that_is_one_too_many() -> None:
    class Watched(bytes):
        looked_at = 0

        def __getitem__(self, key: int) -> int:  # type: ignore[override]  # one byte at a time
            Watched.looked_at += 1
            return super().__getitem__(key)

    refused(Watched(b"\x1a\x00" * 100_000))

    assert Watched.looked_at < 20


def test_numbers_that_are_packed_count_each() -> None:
    walked(one(2, b"\x06" * 4), LIST)

    assert refused(one(2, b"\x06" * 5), LIST).refused.field == "states"
    # Packed, by themselves, and packed again: all are of one field.
    mixed = one(2, b"\x06\x01") + b"\x10\x06" + one(2, b"\x03\x80\x01")
    assert refused(mixed, LIST).refused.field == "states"


def test_what_is_inside_a_large_item_is_counted_of_each_by_itself() -> None:
    payload = one(4, bytes(wire.INSIDE_BYTES))
    within = one(3, payload + one(11, b"") * 2)
    walked(within * 3)

    assert refused(within + one(3, payload + one(11, b"") * 3)).refused.field == "tasks.labels"


def test_items_whose_tag_has_two_bytes_are_walked_one_by_one() -> None:
    # The first byte of the tag of field 16, depends_on, is the tag itself: 130, and 130 1.
    rules = rules_of(
        task_service_pb2.SubmitRequest.DESCRIPTOR, {"tasks": 3, "tasks.depends_on": 1_000}
    )
    on = [task_pb2.Dependency(task_id=f"{number}".ljust(200, "i")) for number in range(1_000)]
    request = task_service_pb2.SubmitRequest(tasks=[task_pb2.TaskSpec(depends_on=on)])
    assert len(request.tasks[0].SerializeToString()) > wire.INSIDE_BYTES

    walked(request.SerializeToString(), rules)
    request.tasks[0].depends_on.add(task_id="one too many")

    assert refused(request.SerializeToString(), rules).refused.field == "tasks.depends_on"


def test_children_of_a_large_completion_are_counted() -> None:
    result = one(1, bytes(wire.INSIDE_BYTES))
    walked(one(2, one(3, result + one(3, b"") * 2)), REPORT)

    over = one(2, one(3, result + one(3, b"") * 3))

    assert refused(over, REPORT).refused.field == "reports.complete.submit"


@pytest.mark.parametrize("filler", [b"\x30\x01", b"\x3a\x00", b"\xd2\x3f\x00", b"\x0a\x00"])
def test_fields_that_may_stand_once_do_not_stand_a_million_times(filler: bytes) -> None:
    """Inside a task: a number, a message, an unknown field, a string; each is cheap to send."""
    many = one(3, filler * wire.INSIDE_BYTES)

    error = refused(many).refused

    assert error.field == "tasks"
    assert error.metadata["limit"] == str(wire.OTHERS_MAX)


def test_unknown_fields_are_counted_before_they_are_parsed() -> None:
    walked(one(99, b"x") * wire.OTHERS_MAX)

    assert "1000 fields" in refused(one(99, b"x") * (wire.OTHERS_MAX + 1)).refused.message


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x1a", "cut off"),
        (b"\x1a\x05abc", "has 3"),
        (b"\x1a\xff\xff\xff\xff\x0f", "bytes has 0"),
        (b"\x1a\xff\xff\xff\xff\xff\x01", "more than 5 bytes"),
        (b"\xff\xff\xff", "cut off"),
        (b"\x30" + b"\x80" * 10 + b"\x01", "more than 10 bytes"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\x0c", "wire type 4"),
        (b"\x0f\x01", "wire type 7"),
        (b"\x0d\x01", "of 4 bytes has 1"),
        (b"\x09\x01\x02", "of 8 bytes has 2"),
        (b"\x02\x00", "number 0"),
    ],
)
def test_bytes_that_are_no_message_are_refused_and_told_why(raw: bytes, why: str) -> None:
    error = refused(raw).refused

    assert error.message.startswith("the request body could not be parsed")
    assert why in error.message


def test_a_limit_on_a_field_that_is_not_there_or_holds_one_item_is_a_mistake() -> None:
    for limits in ({"task": 1}, {"request_id": 1}, {"tasks.label": 1}, {"tasks.payload": 1}):
        with pytest.raises(ValueError, match=r"no field|one item"):
            rules_of(task_service_pb2.SubmitRequest.DESCRIPTOR, limits)


# ---------------------------------------------------------------- against a full parse

SPECS = st.builds(
    task_pb2.TaskSpec,
    task_id=st.text(max_size=3),
    payload=st.sampled_from([b"", b"\x1a\x00", bytes(200), bytes(wire.INSIDE_BYTES)]),
    priority=st.integers(0, 2**32 - 1),
    labels=st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=4),
)
SUBMITS = st.builds(
    task_service_pb2.SubmitRequest,
    request_id=st.text(max_size=5),
    tasks=st.lists(SPECS, max_size=6),
)
LISTS = st.builds(
    task_service_pb2.ListTasksRequest,
    states=st.lists(st.integers(0, 8), max_size=8),
    labels=st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=4),
    page_size=st.integers(0, 2**32 - 1),
)
COMPLETIONS = st.builds(
    worker_service_pb2.Completion,
    result=st.sampled_from([b"", bytes(wire.INSIDE_BYTES)]),
    submit=st.lists(SPECS, max_size=4),
)
REPORTS = st.builds(
    worker_service_pb2.ReportRequest,
    reports=st.lists(st.builds(worker_service_pb2.TaskReport, complete=COMPLETIONS), max_size=5),
)


def too_many(message: Message, limits: Mapping[str, int], path: str = "") -> Iterator[str]:
    """The dumb way: parse all of it, then count. Inside items only of the large ones."""
    for described, value in message.ListFields():
        name = f"{path}{described.name}"
        items = value if described.is_repeated else [value]
        if name in limits and len(items) > limits[name]:
            yield name
        if described.message_type is None or described.message_type.GetOptions().map_entry:
            continue
        for item in items:
            if item.ByteSize() >= wire.INSIDE_BYTES:
                yield from too_many(item, limits, f"{name}.")


@pytest.mark.slow
@given(st.one_of(SUBMITS, LISTS, REPORTS), st.integers(1, 300_000))
def test_the_walk_refuses_what_a_full_parse_would_find_too_many_and_nothing_else(
    message: Message, piece_bytes: int
) -> None:
    limits, rules = {
        "SubmitRequest": ({"tasks": 3, "tasks.labels": 2}, SUBMIT),
        "ListTasksRequest": ({"states": 4, "labels": 2}, LIST),
        "ReportRequest": ({"reports": 3, "reports.complete.submit": 2}, REPORT),
    }[message.DESCRIPTOR.name]
    raw = message.SerializeToString()
    over = set(too_many(message, limits))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "PIECE_BYTES", piece_bytes)
        if over:
            assert refused(raw, rules).refused.field in over
            return
        cuts = walked(raw, rules)

    assert cuts == sorted(set(cuts))
    pieces = type(message)()
    for begin, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        pieces.MergeFromString(raw[begin:end])
    assert pieces == message


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_in_words_or_are_a_message_of_so_many_items(raw: bytes) -> None:
    try:
        walked(raw)
    except RefusedRequestError:
        return
    try:
        parsed = task_service_pb2.SubmitRequest.FromString(raw)
    except DecodeError:
        return  # an item that is none, say: told once it is parsed
    assert len(parsed.tasks) <= 3


@given(SUBMITS)
def test_a_field_is_found_in_the_bytes_as_in_the_message(
    message: task_service_pb2.SubmitRequest,
) -> None:
    found = wire.values(message.SerializeToString(), 1)

    assert b"".join(found).decode() == message.request_id
    assert wire.values(message.SerializeToString(), 3) == [
        task.SerializeToString() for task in message.tasks
    ]


async def test_a_large_request_is_parsed_in_pieces_to_the_same_message() -> None:
    message = task_service_pb2.SubmitRequest(
        request_id="r", tasks=[task_pb2.TaskSpec(payload=bytes(200_000))] * 3
    )
    raw = message.SerializeToString()
    cuts = await wire.check(raw, SUBMIT)

    assert len(cuts) == 1
    assert await wire.parse(task_service_pb2.SubmitRequest, raw, cuts) == message
