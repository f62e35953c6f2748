"""One vocabulary for a task's options, and a word for each that there is not."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tq_client import Backoff, task_spec
from tq_client.specs import make_spec
from tq_worker import task


@task("options-resize", queue="images", retries=3, timeout=30, labels={"by": "task"})
def resize(path: str) -> str:
    return path


def test_every_option_stands_in_the_spec() -> None:
    at = datetime(2030, 1, 31, 8, tzinfo=UTC)
    spec = task_spec(
        "mail",
        "send",
        b"hello",
        task_id="t1",
        content_type="text/plain",
        priority=9,
        run_at=at,
        expire_at=at + timedelta(hours=1),
        timeout=1.5,
        retries=0,
        backoff=Backoff(first=1, factor=3, most=timedelta(minutes=5), jitter=False),
        labels={"a": "b"},
        retention=timedelta(days=1),
        traceparent="00-trace",
    )

    assert (spec.task_id, spec.content_type, spec.priority, spec.max_attempts) == (
        "t1",
        "text/plain",
        9,
        1,
    )
    assert spec.run_at.ToDatetime(UTC) == at
    assert spec.expire_at.ToDatetime(UTC) == at + timedelta(hours=1)
    assert spec.timeout.ToTimedelta() == timedelta(seconds=1.5)
    assert spec.retention.ToTimedelta() == timedelta(days=1)
    assert dict(spec.labels) == {"a": "b"}
    policy = spec.retry_policy
    assert policy.initial_backoff.ToTimedelta() == timedelta(seconds=1)
    assert (policy.multiplier, policy.no_jitter) == (3, True)
    assert policy.max_backoff.ToTimedelta() == timedelta(minutes=5)


def test_a_delay_counts_from_now() -> None:
    before = datetime.now(UTC)
    spec = task_spec("mail", "send", delay=60)

    assert before <= spec.run_at.ToDatetime(UTC) - timedelta(seconds=60) <= datetime.now(UTC)


def test_none_is_as_if_it_were_not_given() -> None:
    nothing: Any = dict.fromkeys(["task_id", "run_at", "delay", "timeout", "backoff", "labels"])

    assert task_spec("mail", "send", **nothing) == task_spec("mail", "send")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("countdown", "delay"),
        ("eta", "run_at"),
        ("expires", "expire_at"),
        ("max_retries", "retries"),
        ("max_attempts", "retries"),
        ("retry_policy", "backoff"),
        ("time_limit", "timeout"),
        ("result_ttl", "retention"),
        ("link", "depends_on"),
        ("link_error", "depends_on"),
        ("chain", "depends_on"),
        ("chord", "depends_on"),
        ("wait_for", "depends_on"),
        ("dependson", "depends_on"),
        ("priorty", "priority"),
        ("lables", "labels"),
    ],
)
def test_an_option_that_there_is_not_is_named_with_ours(name: str, meant: str) -> None:
    unknown: Any = {name: 1}
    with pytest.raises(TypeError, match=rf"no option {name}: {meant} may be meant; there are"):
        task_spec("mail", "send", **unknown)
    with pytest.raises(TypeError, match=rf"^resize\.options: there is no option {name}: {meant}"):
        resize.options(**unknown)
    with pytest.raises(TypeError, match=name):
        task("other", **unknown)


def test_one_that_is_like_none_is_told_what_there_is() -> None:
    unknown: Any = {"zzz": 1}
    with pytest.raises(TypeError, match=r"submit: there is no option zzz; there are timeout_s, "):
        make_spec("submit", "mail", "send", b"", unknown, ("timeout_s",))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (
            {"timeout": "30"},
            TypeError("timeout='30': it takes a timedelta, or seconds as a number"),
        ),
        ({"timeout": True}, TypeError("timeout=True: it takes a timedelta, or seconds")),
        ({"timeout": 0}, ValueError("timeout=0: it has to be more than nothing")),
        ({"timeout": -1}, ValueError("timeout=-1: 0 to 366 days are allowed")),
        ({"delay": float("nan")}, ValueError("delay=nan: at most 366 days are allowed")),
        ({"delay": 1e300}, ValueError("delay=1e+300: at most 366 days are allowed")),
        ({"retention": timedelta(days=400)}, ValueError("0 to 366 days are allowed")),
        ({"task_id": 17}, TypeError("task_id=17: it takes a str")),
        ({"task_id": uuid.UUID(int=7)}, TypeError("it takes a str; say str(task_id)")),
        ({"labels": {"a": 1}}, TypeError("labels: 'a': 1: both have to be str")),
        ({"labels": "a=b"}, TypeError("labels='a=b': it takes a mapping of str to str")),
        ({"priority": -1}, ValueError("priority=-1: 0 to 255 are allowed")),
        ({"priority": 1 << 32}, ValueError("priority=4294967296: 0 to 255 are allowed")),
        ({"priority": 1.5}, TypeError("priority=1.5: it takes a whole number from 0 to 255")),
        ({"retries": 1000}, ValueError("retries=1000: 0 to 999 are allowed")),
        ({"run_at": 1234.5}, TypeError("run_at=1234.5: it takes a datetime with a time zone")),
        ({"run_at": datetime(2030, 1, 1)}, ValueError("run_at: a datetime without a time zone")),  # noqa: DTZ001
        ({"backoff": 5}, TypeError("backoff=5: it takes a Backoff(first, factor, most)")),
        ({"backoff": Backoff("1s")}, TypeError("backoff.first='1s': it takes a timedelta")),  # type: ignore[arg-type]
        ({"backoff": Backoff(factor="2")}, TypeError("backoff.factor='2': it takes a number")),  # type: ignore[arg-type]
        ({"payload": "text"}, TypeError("payload='text': it takes bytes; say payload.encode()")),
        ({"payload": ["x"] * 100}, TypeError("it takes bytes")),
    ],
)
def test_what_an_option_cannot_be_is_said_with_its_name(
    given: dict[str, Any], error: Exception
) -> None:
    with pytest.raises(type(error)) as refused:
        task_spec("mail", "send", **given)
    assert str(error) in str(refused.value)
    assert len(str(refused.value)) < 200


def test_a_time_and_a_delay_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="task_spec: run_at and delay: give one of them"):
        task_spec("mail", "send", run_at=datetime.now(UTC), delay=1)


def test_options_go_over_those_of_the_decorator_and_of_each_other() -> None:
    later = resize.options(delay=60).options(run_at=datetime(2030, 1, 1, tzinfo=UTC), retries=0)

    spec = later.spec("a.png")
    assert (spec.queue, spec.max_attempts, spec.timeout.seconds) == ("images", 1, 30)
    assert spec.run_at.ToDatetime(UTC).year == 2030
    assert dict(spec.labels) == {"by": "task"}
    assert resize.spec("a.png").max_attempts == 4


def test_options_are_looked_at_when_they_are_given() -> None:
    with pytest.raises(ValueError, match=r"resize\.options: priority=-1: 0 to 255 are allowed"):
        resize.options(priority=-1)
    with pytest.raises(TypeError, match="@task: timeout='30': it takes a timedelta"):
        task("other", timeout="30")  # type: ignore[call-overload]
