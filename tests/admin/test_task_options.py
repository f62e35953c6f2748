"""Each option that task.proto declares has its flag in `tq-admin submit`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.sweep import extremes
from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker
from tq.v1 import task_pb2
from tq.v1.task_options import OPTIONS
from tq_common.task_options import Kind, TaskOption

WITH_FLAGS = [option for option in OPTIONS if option.flag and not option.by_hand]
NOW = datetime.now(UTC).replace(microsecond=0)


def typed(option: TaskOption, value: Any) -> list[str]:  # noqa: ANN401  # any option's
    """The arguments for a value."""
    flag = f"--{option.flag}"
    if option.kind is Kind.FLAG:
        return [flag]
    if option.kind is Kind.MAP:
        return [part for key, text in value.items() for part in (flag, f"{key}={text}")]
    if option.kind is Kind.TEXTS:
        return [part for text in value for part in (flag, text)]
    if isinstance(value, timedelta):
        return [flag, f"{value // timedelta(milliseconds=1)}ms"]
    if isinstance(value, bytes):
        return [flag, value.decode()]
    return [flag, value.isoformat() if isinstance(value, datetime) else str(value)]


@pytest.mark.parametrize("option", WITH_FLAGS, ids=lambda option: str(option.flag))
def test_a_flag_takes_the_largest_value_of_its_option(
    admin: Admin, broker: FakeBroker, option: TaskOption
) -> None:
    value = extremes.most(option, NOW)
    expected = task_pb2.TaskSpec(queue="q", type="t")
    extremes.put(expected, option, value)

    ran = admin("submit", "q", "t", *typed(option, value))

    assert ran.code == 0, ran.stderr
    [request] = broker.submits
    [spec] = request.tasks
    spec.ClearField("traceparent")
    assert spec == expected


def test_every_option_has_its_flag_unless_it_says_that_it_has_none(admin: Admin) -> None:
    text = admin("submit", "--help").stdout

    assert {option.flag for option in OPTIONS if f"--{option.flag} " in text} == {
        option.flag for option in OPTIONS if option.flag
    }
    assert {option.name for option in OPTIONS if not option.flag} == {"traceparent"}
