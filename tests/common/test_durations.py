"""Lengths of time as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from tq_common import durations


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("30s", timedelta(seconds=30)),
        ("30", timedelta(seconds=30)),
        ("0.25", timedelta(milliseconds=250)),
        ("1.5 s", timedelta(seconds=1.5)),
        (" 5m ", timedelta(minutes=5)),
        ("5min", timedelta(minutes=5)),
        ("2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
        ("0s", timedelta()),
        ("3660d", durations.LONGEST),
    ],
)
def test_a_length_is_a_number_and_its_unit(text: str, length: timedelta) -> None:
    assert durations.parse(text) == length


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("30x", "'30x' is not a length of time: 500ms, 30s, 5m, 2h, 1d; a number alone is in"),
        ("", "'' is not a length"),
        ("5 weeks", "'5 weeks' is not a length"),
        ("-5s", "'-5s' is not a length"),
        ("1e3s", "'1e3s' is not a length"),
        ("\u0665s", "is not a length"),
        ("9" * 400 + "d", "9...' is not a length"),
        ("3661d", "'3661d' is too long: at most 3660 d are allowed"),
    ],
)
def test_anything_else_is_refused_with_what_is_right(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as refused:
        durations.parse(text)

    assert len(str(refused.value)) < 200
