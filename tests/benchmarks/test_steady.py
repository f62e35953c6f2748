"""When a steady stream is called flat, and how it is drawn."""

from __future__ import annotations

from benchmarks.plot import Curve, chart
from benchmarks.steady import Sample, faults, late_s


def sample(at_s: float, **changed: float) -> Sample:
    """A reading of a stream that is as it should be, but for what is said."""
    found: dict[str, float] = {
        "submitted_per_s": 1_000,
        "completed_per_s": 1_000,
        "removed_per_s": 1_000,
        "leader_cores": 0.5,
        "waiting": 10,
        "kept": 60_000,
        "completed": 0,
        "removed": 0,
        "late_s": 0.5,
        "rows": 360_000,
        "memory_mb": 100,
        "state_mb": 200,
        "journal_mb": 64,
        "lone_p99_ms": 9,
    }
    return Sample(at_s=at_s, **(found | changed))  # type: ignore[arg-type]


def test_a_stream_is_flat_if_nothing_grows_once_the_first_tasks_are_removed() -> None:
    filling = [sample(at_s, kept=int(at_s) * 1_000) for at_s in range(0, 60, 5)]
    settled = [sample(at_s) for at_s in range(60, 600, 5)]

    assert faults(filling + settled, retention_s=60) == []


def test_what_grows_after_that_is_named() -> None:
    growing = [sample(at_s, rows=360_000 + 1_000 * at_s, memory_mb=100) for at_s in range(600)]

    (fault,) = faults(growing, retention_s=60)

    assert fault.startswith("rows a task: grew from")


def test_a_stream_whose_tasks_are_removed_later_and_later_is_not_flat() -> None:
    lagging = [sample(at_s, late_s=at_s / 10) for at_s in range(600)]

    (fault,) = faults(lagging, retention_s=60)

    assert fault.startswith("tasks were removed 59.9 s after their retention")


def test_how_late_a_task_is_removed_follows_from_when_as_many_were_completed() -> None:
    samples = [sample(at_s, completed=int(at_s) * 1_000) for at_s in range(0, 100, 5)]

    assert late_s(samples, at_s=100, removed=40_000, retention_s=60) == 0
    assert late_s(samples, at_s=100, removed=30_500, retention_s=60) == 9.5
    assert late_s(samples, at_s=5, removed=0, retention_s=60) == 0


def test_a_run_that_ends_before_anything_was_removed_says_nothing_and_that_is_a_fault() -> None:
    (fault,) = faults([sample(at_s) for at_s in range(0, 100, 5)], retention_s=60)

    assert "too short" in fault


def test_a_chart_has_a_line_for_each_curve_and_its_highest_value() -> None:
    curves = [
        Curve(title="tasks", unit="/s", lines={"in": [1, 2, 3], "out": [0, 1, 2]}),
        Curve(title="rows", unit="", lines={"rows": [0, 0, 0]}),
    ]

    picture = chart("a & b", [0, 5, 10], curves)

    assert picture.count("<polyline ") == 3
    for text in ("a &amp; b", "tasks, /s", "rows", ">3<", ">10 s<"):
        assert text in picture
