"""What a caller sent is shown in an error, but not all of it."""

from __future__ import annotations

from tq_common.quoting import quoted, shown


def test_a_short_text_is_quoted_whole_and_a_long_one_is_cut() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert quoted("x" * 60) == "'" + "x" * 60 + "'"
    assert quoted("x" * 61) == "'" + "x" * 60 + "...'"
    assert quoted("x" * 11, chars_max=10) == "'xxxxxxxxxx...'"


def test_a_value_is_shown_as_python_writes_it_and_a_long_one_is_cut() -> None:
    assert shown({"a": 1}) == "{'a': 1}"
    assert shown("x" * 58) == "'" + "x" * 58 + "'"
    assert shown("x" * 59) == "'" + "x" * 59 + "..."
    assert shown([1, 2, 3], chars_max=4) == "[1, ..."
