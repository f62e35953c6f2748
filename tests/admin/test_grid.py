"""A table is as wide as the terminal, and what it leaves out it names."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tq_admin.output import grid

TASK = "579ca5b13d3d43c3b1456450233cbdfd-1"
ERROR = "RuntimeError: connection reset by smtp.example"


def drawn(width: int) -> list[str]:
    """A table of one task with a long error, as a terminal of this width shows it."""
    table = grid(
        ("TASK", "QUEUE", "PRIORITY", "ATTEMPTS", "ERROR"),
        [(TASK, "mail", 7, 1_000, ERROR)],
        elastic="ERROR",
        optional=("PRIORITY", "ATTEMPTS"),
    )
    printed = io.StringIO()
    Console(file=printed, width=width).print(table)
    return [line.rstrip() for line in printed.getvalue().splitlines()]


def test_where_there_is_room_all_is_shown() -> None:
    assert drawn(120) == [
        f"TASK{' ' * 32}QUEUE  PRIORITY  ATTEMPTS  ERROR",
        f"{TASK}  mail          7      1000  {ERROR}",
    ]


def test_an_error_is_cut_before_a_column_goes() -> None:
    _, row = drawn(90)

    assert row.startswith(f"{TASK}  mail          7      1000  RuntimeError: c")
    assert row.endswith("…")


@pytest.mark.parametrize(
    ("width", "left_out"), [(72, "PRIORITY"), (60, "PRIORITY, ATTEMPTS")], ids=str
)
def test_columns_go_in_their_order_and_are_named(width: int, left_out: str) -> None:
    head, row, remark = drawn(width)

    assert remark == f"Not shown, for want of width: {left_out}"
    assert not [column for column in left_out.split(", ") if column in head]
    assert row.startswith(f"{TASK}  mail")


def test_an_id_is_folded_and_never_cut() -> None:
    lines = drawn(40)

    assert all(len(line) <= 40 for line in lines)
    cells = [line.split("  ")[0] for line in lines[1:]]
    assert "".join(cells[: cells.index("Not shown, for want of width: PRIORITY,")]) == TASK
