"""What the brokers say of a failure arrives as an exception of the right kind."""

from __future__ import annotations

import copy

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.client.fake_broker import Call, Context, FakeBroker, refuse, serving
from tq.v1 import errors_pb2
from tq_client import AsyncClient, Reason, TqError, errors


def test_every_reason_of_the_api_has_its_name_and_its_kind_here() -> None:
    api = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()}

    assert {str(reason) for reason in Reason} == api
    for reason in Reason:
        error = errors.of_reason(reason, "why")
        assert type(error) is not TqError
        assert error.reason is reason


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.NOT_FOUND, errors.NotFoundError),
        (Reason.TASK_EXISTS, errors.ConflictError),
        (Reason.LEASE_LOST, errors.LeaseLostError),
        (Reason.PERMISSION_DENIED, errors.AccessDeniedError),
        (Reason.REQUEST_ID_EXPIRED, errors.OutcomeUnknownError),
        (Reason.DISK_PRESSURE, errors.BusyError),
    ],
)
async def test_a_refusal_becomes_an_error_of_its_family(
    reason: Reason, kind: type[TqError]
) -> None:
    broker = FakeBroker(steps=[refuse(reason, grpc.StatusCode.FAILED_PRECONDITION, field="f")])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(kind) as caught:
            await client.get("t1")

    assert caught.value.reason is reason
    assert caught.value.field == "f"
    assert str(caught.value) == f"{reason}: refused: {reason}"


async def test_a_reason_that_this_client_does_not_know_is_a_failure_and_not_a_crash() -> None:
    async def refuse_in_new_words(broker: FakeBroker, call: Call, context: Context) -> None:
        await refuse("TOO_PURPLE", grpc.StatusCode.ABORTED)(broker, call, context)  # type: ignore[arg-type]

    broker = FakeBroker(steps=[refuse_in_new_words])  # type: ignore[list-item]
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        with pytest.raises(errors.InternalError) as caught:
            await client.get("t1")

    assert caught.value.reason is Reason.UNSPECIFIED
    assert "TOO_PURPLE" in str(caught.value)


def test_an_items_refusal_keeps_all_that_was_said() -> None:
    item = errors_pb2.ItemError(
        reason=errors_pb2.ERROR_REASON_QUOTA_EXCEEDED,
        message="full",
        field="queue",
        metadata={"limit": "10", "actual": "11"},
        retry_after=Duration(seconds=2),
    )

    error = errors.of_item(item)

    assert isinstance(error, errors.BusyError)
    assert (error.message, error.field, error.retry_after_s) == ("full", "queue", 2.0)
    assert error.metadata == {"limit": "10", "actual": "11"}


def test_an_item_without_advice_advises_nothing() -> None:
    item = errors_pb2.ItemError(reason=errors_pb2.ERROR_REASON_TASK_EXISTS)

    assert errors.of_item(item).retry_after_s is None


def test_a_copied_error_says_the_same() -> None:
    error = errors.of_reason(Reason.NOT_FOUND, "no such task", metadata={"task": "t1"})

    duplicate = copy.copy(error)

    assert str(duplicate) == str(error)
    assert vars(duplicate) == vars(error)
