"""Each option that task.proto declares: the broker takes its bounds, and nothing beyond."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.sweep import extremes
from tq.v1 import errors_pb2, task_pb2
from tq.v1.task_options import NEED, OPTIONS
from tq.v1.task_pb2 import Dependency
from tq_cluster.core.kernel.validation import check_spec
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_cluster.core.model.operations import Refused
from tq_common.task_options import Kind, TaskOption

NOW = datetime(2030, 1, 31, tzinfo=UTC)
CHECKED = [option for option in OPTIONS if option.kind is not Kind.OTHER]
BEYOND = [(option, value) for option in CHECKED for value in extremes.beyond(option, NOW)]


def checked(option: TaskOption, value: object) -> Refused | None:
    spec = task_pb2.TaskSpec(queue="q", type="t")
    if option.submit_only:
        spec.task_id = "t1"
    if option is NEED:
        spec.depends_on.extend(Dependency(task_id=f"t{each}") for each in range(1_000))
    extremes.put(spec, option, value)
    return check_spec(spec, DEFAULT_LIMITS, int(NOW.timestamp() * 1_000))


@pytest.mark.parametrize("option", CHECKED, ids=lambda option: str(option.field))
@pytest.mark.parametrize("bound", [extremes.least, extremes.most])
def test_a_value_at_a_bound_is_taken(option: TaskOption, bound: Any) -> None:  # noqa: ANN401  # least and most
    assert checked(option, bound(option, NOW)) is None


@pytest.mark.parametrize(("option", "value"), BEYOND, ids=lambda each: str(each)[:40])
def test_a_value_beyond_a_bound_is_refused_with_the_field_and_what_is_right(
    option: TaskOption, value: object
) -> None:
    fault = checked(option, value)

    assert fault is not None
    assert fault.reason == errors_pb2.ERROR_REASON_INVALID_ARGUMENT
    assert fault.field.partition("[")[0] == option.field
    assert fault.message.startswith(fault.field)
    wrong, right = fault.message.split("; ")
    assert wrong
    assert any(word in right for word in ("take", "at most"))


def test_every_kind_with_bounds_is_tried_beyond_them() -> None:
    bounded = {
        option.field
        for option in CHECKED
        if (option.most or option.rule or option.choices) and option.kind is not Kind.FLAG
    }

    assert {option.field for option, _ in BEYOND} == bounded
