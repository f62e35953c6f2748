"""A worker can make a report of anything that a handler raises or returns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tq.v1.worker_service_pb2 import TaskReport
from tq_cluster.core.kernel.validation import check_outcome
from tq_cluster.core.model.limits import DEFAULT_LIMITS
from tq_common.limits import (
    ERROR_BYTES_MAX,
    PAUSE_S_MAX,
    PAYLOAD_BYTES_MAX,
    RETRY_AFTER_S_MAX,
)
from tq_worker import PermanentError, Result, RetryableError, Snooze
from tq_worker.wire import task_reports

Deed = Callable[[], Any]


def raises(error: BaseException | type[BaseException]) -> Deed:
    def deed() -> None:
        raise error

    return deed


DEEDS = st.one_of(
    st.sampled_from([ValueError, SystemExit, KeyboardInterrupt, RecursionError, GeneratorExit]).map(
        raises
    ),
    st.one_of(
        st.none(),
        st.text(max_size=20),
        st.binary(max_size=20),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.text(alphabet="\ud800\udfff\0é", max_size=9000),
    ).map(lambda value: lambda: value),
)


def hostile(base: type[BaseException], deeds: dict[str, Deed]) -> BaseException:
    """An exception that does something whenever it is looked at."""

    def doing(deed: Deed) -> Callable[[object], Any]:
        return lambda _self: deed()

    members: dict[str, Any] = {
        name: doing(deed) if name in {"__str__", "__repr__"} else property(doing(deed))
        for name, deed in deeds.items()
    }
    made: Any = type("HostileError", (base,), members)
    try:
        raises(made.__new__(made))()
    except BaseException as caught:  # noqa: BLE001  # it has a traceback now
        return caught
    raise AssertionError


@given(
    base=st.sampled_from([Exception, BaseException, RetryableError, PermanentError, SystemExit]),
    said=DEEDS,
    shown=DEEDS,
    others=st.dictionaries(
        st.sampled_from(["retry_after_s", "__class__", "__notes__", "args"]), DEEDS
    ),
)
def test_whatever_an_exception_does_a_report_says_that_the_attempt_failed(
    base: type[BaseException],
    said: Deed,
    shown: Deed,
    others: dict[str, Deed],
) -> None:
    error = hostile(base, {"__str__": said, "__repr__": shown, **others})

    report = task_reports.raised("t", 7, error)

    told = TaskReport.FromString(report.SerializeToString())
    assert told.WhichOneof("outcome") == "fail"
    assert told.fail.error.startswith("HostileError: ")
    assert len(told.fail.error.encode()) <= ERROR_BYTES_MAX
    assert told.fail.permanent == (base is PermanentError)


@given(
    st.one_of(
        st.none(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.integers(),
        st.builds(
            Result,
            st.one_of(st.binary(max_size=5), st.none(), st.integers()),
            st.one_of(st.text(max_size=5), st.none(), st.text(alphabet="\ud800", min_size=1)),
            st.one_of(st.just(()), st.none(), st.lists(st.integers(), max_size=2)),
        ),
    )
)
def test_whatever_a_handler_returns_is_a_completion_or_a_permanent_failure(value: object) -> None:
    report = TaskReport.FromString(task_reports.returned("t", 7, value).SerializeToString())

    assert report.WhichOneof("outcome") == "complete" or report.fail.permanent
    if report.HasField("fail"):
        assert report.fail.error.startswith("the result does not fit: ")


def test_a_wish_for_when_that_cannot_be_granted_is_named_and_the_rest_stays() -> None:
    class ThrottledError(RetryableError):
        def __init__(self) -> None:
            self.retry_after_s = "30"  # type: ignore[assignment]

    report = task_reports.raised("t", 7, ThrottledError())

    assert not report.fail.HasField("retry_after")
    assert report.fail.error == (
        "ThrottledError: \n"
        "(its retry_after_s is not used: TypeError: it is str, not a number of seconds)"
    )


def test_the_longest_wait_that_a_handler_may_ask_for_is_one_that_the_brokers_grant() -> None:
    report = task_reports.raised("t", 7, RetryableError(retry_after_s=RETRY_AFTER_S_MAX))

    assert report.fail.retry_after.ToSeconds() == RETRY_AFTER_S_MAX
    assert check_outcome(report, DEFAULT_LIMITS) is None
    with pytest.raises(ValueError, match="is not from 0 to 7 days"):
        RetryableError(retry_after_s=RETRY_AFTER_S_MAX + 1)


def test_a_snooze_is_a_release_for_a_while_that_brokers_grant() -> None:
    for delay, ms in (
        (0.001, 1),
        (timedelta(minutes=5), 300_000),
        (PAUSE_S_MAX, PAUSE_S_MAX * 1000),
    ):
        report = task_reports.raised("t", 7, Snooze(delay, "not ready"))

        assert report.release.pause.ToMilliseconds() == ms
        assert report.release.reason == "Snooze: not ready"
        assert not task_reports.is_unfit(report)
        assert check_outcome(report, DEFAULT_LIMITS) is None


@pytest.mark.parametrize("delay", [0, -1, PAUSE_S_MAX + 1, float("nan"), timedelta(days=2)])
def test_a_snooze_of_no_time_or_too_long_is_refused(delay: float | timedelta) -> None:
    with pytest.raises(ValueError, match="delay="):
        Snooze(delay)


@pytest.mark.parametrize("delay", ["5m", None, True])
def test_a_snooze_takes_a_length_of_time(delay: object) -> None:
    with pytest.raises(TypeError, match="delay="):
        Snooze(delay)  # type: ignore[arg-type]  # what is wrong is the point


def test_a_snooze_whose_delay_cannot_be_read_is_a_failure_that_says_so() -> None:
    class LaterError(Snooze):
        def __init__(self) -> None:
            self.delay = "30"  # type: ignore[assignment]

    report = task_reports.raised("t", 7, LaterError())

    assert report.fail.error == (
        "LaterError: \n(its delay is not used: TypeError: it is str, not a timedelta)"
    )


@pytest.mark.parametrize("size", [PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1])
def test_a_result_that_the_queue_does_not_take_is_not_sent(size: int) -> None:
    report = task_reports.returned("t", 7, memoryview(bytes(size)))

    assert report.HasField("fail") == (size > PAYLOAD_BYTES_MAX)
    if report.HasField("fail"):
        assert report.fail.error == (
            "the result does not fit: ValueError: it has 10,485,761 bytes; at most 10,485,760 are"
            " taken"
        )
