"""A call of several tasks that is refused for one of them: the others are sent without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor

from tests.client.fake_broker import FakeBroker, lose_reply, refuse, serving
from tests.patience import PATIENCE_S
from tests.service.fakes import Node, cluster_of
from tq.v1 import task_service_pb2
from tq.v1.task_pb2 import TaskSpec
from tq_client import AsyncClient, Reason, TqError, offenders, task_spec
from tq_client.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    OutcomeUnknownError,
    UnsupportedError,
    of_reason,
)
from tq_cluster.core.model.operations import Replied
from tq_cluster.service import errors, policy
from tq_cluster.service.policy import Verb

LABELS_TOO_MANY = {f"l{number}": "x" * 200 for number in range(400)}
"""So large a task that the broker counts its labels before it parses the request."""
SPECS = [
    task_spec("mail", "send", task_id="first"),
    task_spec("mail", "send", task_id="newer", if_exists="keep"),
    task_spec("mail", "send", task_id="labelled", labels=LABELS_TOO_MANY),
    task_spec("secret", "send", task_id="denied"),
    task_spec("mail", "send", task_id="last"),
]


def authorize(_principal: str, verb: Verb, _namespace: int, queue: str) -> None:
    if queue == "secret":
        raise errors.permission_denied("", verb.name, queue)


@asynccontextmanager
async def older_broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    """A broker whose cluster does not take ``if_exists`` yet; its leader takes every task."""
    since = {"tq.v1.TaskSpec.if_exists": 3}

    def since_of(field: FieldDescriptor) -> int:
        return since.get(field.full_name, 0)

    monkeypatch.setattr(policy, "since_of", since_of)
    async with cluster_of("n1", authorize=authorize) as cluster:
        node = cluster["n1"]
        node.cluster_version = 2
        cluster.elect("n1", 1)

        async def take() -> Replied:
            reply = task_service_pb2.SubmitResponse()
            for spec in node.leader.asked[-1].request.tasks:
                reply.results.add().task.task_id = spec.task_id
            return Replied(reply=reply)

        node.leader.answer = take
        yield node


def check(outcomes: Sequence[str | BaseException]) -> None:
    """The outcomes of ``SPECS``: each error is its own task's, in the words of that task."""
    first, newer, labelled, denied, last = outcomes
    assert (first, last) == ("first", "last")
    assert isinstance(newer, UnsupportedError)
    assert newer.field == "if_exists"
    assert newer.message.startswith("if_exists needs cluster version 3")
    assert str(newer) == f"UNSUPPORTED: {newer.message}"
    assert isinstance(labelled, InvalidArgumentError)
    assert labelled.field == "tasks.labels"
    assert isinstance(denied, AccessDeniedError)
    assert "secret" in denied.message


async def test_submits_that_share_a_call_do_not_fail_for_what_one_of_them_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with older_broker(monkeypatch) as node, AsyncClient([node.address]) as client:
        outcomes = await asyncio.gather(
            client.submit("mail", "send", task_id="first"),
            client.submit("mail", "send", task_id="newer", if_exists="keep"),
            client.submit("mail", "send", task_id="labelled", labels=LABELS_TOO_MANY),
            client.submit("secret", "send", task_id="denied"),
            client.submit("mail", "send", task_id="last"),
            return_exceptions=True,
        )
        taken = [spec.task_id for asked in node.leader.asked for spec in asked.request.tasks]

    check(outcomes)
    assert sorted(taken) == ["first", "last"]


async def test_submit_many_does_not_refuse_all_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with older_broker(monkeypatch) as node, AsyncClient([node.address]) as client:
        outcomes = await client.submit_many(SPECS, timeout_s=PATIENCE_S)

    check(outcomes)


async def test_a_refusal_of_the_caller_is_not_asked_for_again() -> None:
    broker = FakeBroker(steps=[refuse(Reason.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED)])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        outcomes = await asyncio.gather(
            *(client.submit(queue, "send") for queue in ("a", "b")), return_exceptions=True
        )

    assert [type(each) for each in outcomes] == [AccessDeniedError] * 2
    assert len(broker.calls) == 1


async def test_no_task_is_sent_again_if_an_earlier_attempt_may_have_been_applied() -> None:
    """The broker that took the call is newer than the one that refuses its repetition."""
    unsupported = refuse(
        Reason.UNSUPPORTED, grpc.StatusCode.UNIMPLEMENTED, field="tasks[0].if_exists"
    )
    broker = FakeBroker(steps=[lose_reply, unsupported])
    async with serving(broker) as addresses, AsyncClient(addresses) as client:
        outcomes = await asyncio.gather(
            *(client.submit("mail", "send") for _ in range(2)), return_exceptions=True
        )

    assert [type(each) for each in outcomes] == [OutcomeUnknownError] * 2
    assert len({call.request_id for call in broker.of("Submit")}) == 1


async def test_a_client_that_closes_sends_no_others_after_a_refusal() -> None:
    unsupported = refuse(Reason.UNSUPPORTED, grpc.StatusCode.UNIMPLEMENTED, field="tasks[0].x")
    broker = FakeBroker(steps=[unsupported] * 2)
    async with serving(broker) as addresses:
        client = AsyncClient(addresses)
        submits = [asyncio.ensure_future(client.submit("mail", "send")) for _ in range(2)]
        await broker.arrived.wait()
        await client.close()
        outcomes = await asyncio.gather(*submits, return_exceptions=True)

    assert all(isinstance(each, TqError) for each in outcomes)


@pytest.mark.parametrize("field", ["tasks[{}].if_exists", "tasks.labels"])
@pytest.mark.parametrize("every", [1, 2, 100])
def test_a_thousand_tasks_with_many_offenders_take_few_calls_and_each_gets_its_answer(
    field: str, every: int
) -> None:
    specs = [TaskSpec(task_id=str(at)) for at in range(1_000)]
    wrong = {spec.task_id for spec in specs[::every]}
    refused, taken, sent = [], [], []
    calls: list[tuple[Sequence[TaskSpec], bool]] = [(specs, False)]
    while calls:
        batch, again = calls.pop()
        sent.append(len(batch))
        at = next((at for at, spec in enumerate(batch) if spec.task_id in wrong), None)
        if at is None:
            taken += [spec.task_id for spec in batch]
            continue
        error = of_reason(Reason.UNSUPPORTED, "no", field=field.format(at))
        blame = offenders.find(batch, error, again=again)
        if blame is None:
            refused += [spec.task_id for spec in batch]
            continue
        if blame.offender is not None:
            refused.append(batch[blame.offender].task_id)
        calls += [([batch[at] for at in part], True) for part in blame.again]

    assert sorted(refused) == sorted(wrong)
    assert sorted(taken + refused) == sorted(spec.task_id for spec in specs)
    assert len(sent) < 2 * len(specs)
    assert sum(sent) < 12 * len(specs)


@pytest.mark.parametrize(
    "error",
    [
        of_reason(Reason.INTERNAL, "no", field="tasks[1]"),
        of_reason(Reason.OUTCOME_UNKNOWN, "no", field="tasks[1]"),
        of_reason(Reason.INVALID_ARGUMENT, "no", field="request_id"),
        of_reason(Reason.INVALID_ARGUMENT, "no", field="tasks[7]"),
        of_reason(Reason.INVALID_ARGUMENT, "no", field="tasks[999999999999999999]"),
        of_reason(Reason.PERMISSION_DENIED, "may not submit"),
        of_reason(Reason.UNSUPPORTED, "UNIMPLEMENTED: Method not found!"),
    ],
)
def test_what_may_have_been_applied_or_names_no_task_is_every_tasks_error(error: TqError) -> None:
    assert offenders.find([TaskSpec(queue="q")] * 3, error, again=False) is None
