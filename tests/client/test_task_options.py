"""Each option that task.proto declares: the client takes what its bounds allow, and shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.sweep import extremes
from tq.v1 import task_pb2
from tq.v1.task_options import OPTIONS, TaskOptions
from tq_client import SpecFields, Task, TaskSpec, task_spec
from tq_common.task_options import Kind, TaskOption

NOW = datetime.now(UTC)
MADE = [option for option in OPTIONS if not option.by_hand]
REQUIRED = {"queue", "type", "payload"}
ALIASES = [(alias, option.name) for option in OPTIONS for alias in option.aliases]

each_option = pytest.mark.parametrize("option", MADE, ids=lambda option: str(option.name))


def test_every_field_of_a_spec_is_an_option_or_required() -> None:
    assert {option.field for option in OPTIONS} == set(
        TaskSpec.DESCRIPTOR.fields_by_name
    ) - REQUIRED


def test_every_option_is_one_that_type_checkers_see() -> None:
    assert {option.name for option in MADE} == set(TaskOptions.__annotations__)
    assert {option.name for option in OPTIONS} | {"delay"} == set(SpecFields.__annotations__)


@each_option
@pytest.mark.parametrize("bound", [extremes.least, extremes.most])
def test_a_value_at_a_bound_is_sent_and_shown_as_it_was_given(
    option: TaskOption,
    bound: Any,  # noqa: ANN401  # least and most
) -> None:
    value = bound(option, NOW)
    options: Any = {option.name: value}

    spec = task_spec("q", "t", **options)

    expected = TaskSpec(queue="q", type="t")
    extremes.put(expected, option, value)
    assert spec == expected
    if not option.submit_only:
        shown = getattr(Task.of(task_pb2.Task(spec=spec)), option.name)
        assert shown == (tuple(value) if option.kind is Kind.TEXTS else value)


@each_option
def test_a_value_of_another_type_is_refused_with_the_name_of_the_option(
    option: TaskOption,
) -> None:
    options: Any = {option.name: object()}

    with pytest.raises(TypeError, match=rf"^{option.name}=.*: it takes "):
        task_spec("q", "t", **options)


@pytest.mark.parametrize(("alias", "name"), ALIASES)
def test_the_name_of_another_task_queue_is_answered_with_ours(alias: str, name: str) -> None:
    options: Any = {alias: 1}

    with pytest.raises(TypeError, match=rf"no option {alias}: {name} may be meant"):
        task_spec("q", "t", **options)
