"""A command reads any text given as a value, or refuses it as wrong usage of its option."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from tests.admin.conftest import Admin
from tq_admin import values
from tq_common import durations

TEXTS = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="0123456789.smhdin -+:TZ=,e\u0663", max_size=30),
    st.integers().map(lambda number: f"{number}d"),
    st.floats().map(lambda number: f"{number}s"),
    st.datetimes().map(lambda at: at.isoformat()),
    st.sampled_from(["9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+14:00", "9" * 400 + "d"]),
)


def told(read: Callable[[str], Any], text: str) -> Any:  # noqa: ANN401  # any value that it reads
    """What is read, or the words that refuse it."""
    try:
        return read(text)
    except ValueError as error:
        return f"refused: {error}"


@pytest.mark.parametrize(
    "read", [durations.parse, values.instant, values.backoff, values.label, values.addresses]
)
@given(text=TEXTS)
def test_a_value_is_read_or_refused_in_words(read: Callable[[str], object], text: str) -> None:
    found = told(read, text)

    assert not isinstance(found, str) or 10 < len(found) < 500


@given(TEXTS)
def test_what_is_read_can_be_sent(text: str) -> None:
    length, at = told(durations.parse, text), told(values.instant, text)

    if not isinstance(length, str):
        Duration().FromTimedelta(length)
    if not isinstance(at, str):
        Timestamp().FromDatetime(at)


def test_an_instant_without_an_offset_is_in_local_time() -> None:
    assert values.instant("2030-01-31T08:00:00Z") == datetime(2030, 1, 31, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("submit", "q", "t", "--delay", "999999999999d"), "--delay"),
        (("submit", "q", "t", "--task-timeout", "99999999999d"), "--task-timeout"),
        (("submit", "q", "t", "--retries", "99999999999"), "--retries"),
        (("submit", "q", "t", "--run-at", "9999-12-31T23:59:59-10:00"), "--run-at"),
        (("queues", "configure", "q", "--aging", "9999999999999d"), "--aging"),
        (("list", "--limit", "99999999999999999999"), "--limit"),
        (("dead-letters", "list", "--limit", str(2**63 - 1)), "--limit"),
        (("stats", "--interval", "99999999999999d"), "--interval"),
        (("list", "--timeout", "99999999999999999d"), "--timeout"),
        (("list", "--watch", "99999999999999999d"), "--watch"),
        (("monitor", "--every", "99999999999999999d"), "--every"),
        (("replace-node", "n1", "--wait", "99999999999999999d"), "--wait"),
    ],
)
def test_what_is_too_large_is_wrong_usage_of_its_option(
    admin: Admin, arguments: tuple[str, ...], hint: str
) -> None:
    ran = admin(*arguments)

    assert ran.code == 2
    assert hint in ran.stderr
