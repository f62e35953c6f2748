"""`tq_worker.testing`: the contexts that tests of handlers make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tq_client import task_spec
from tq_common.clock import boottime_s
from tq_worker.testing import task_context


def test_a_context_without_a_task_is_that_of_a_first_attempt() -> None:
    context = task_context()

    assert (context.task_id, context.queue, context.type) == ("test", "default", "test")
    assert (context.attempt, context.token, context.is_last_attempt) == (1, 1, False)
    assert not context.cancelled.is_set()
    assert 0 < context.lease_until_s - boottime_s() <= 30
    assert datetime.now(UTC) - context.submitted_at < timedelta(minutes=10)


def test_a_context_has_what_its_task_has() -> None:
    spec = task_spec(
        *("mail", "send"),
        task_id="welcome-7",
        labels={"shop": "7"},
        priority=9,
        retries=2,
        timeout=timedelta(minutes=1),
    )

    context = task_context(spec, attempt=3, token=12)

    assert (context.task_id, context.queue, context.type) == ("welcome-7", "mail", "send")
    assert (context.labels, context.priority) == ({"shop": "7"}, 9)
    assert (context.token, context.max_attempts, context.is_last_attempt) == (12, 3, True)
    assert context.deadline_s is not None


def test_a_context_keeps_what_its_handler_submits() -> None:
    context = task_context()

    context.submit_on_success(task_spec("mail", "send"))

    assert [spec.type for spec in context.submits] == ["send"]


@pytest.mark.parametrize("given", ["attempt", "token", "lease_s"])
def test_a_number_that_no_attempt_has_is_refused_by_its_name(given: str) -> None:
    with pytest.raises(ValueError, match=f"^{given}: 0 is "):
        task_context(**{given: 0})  # type: ignore[arg-type]  # each takes a number
