"""Any node takes any call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from tests.patience import PATIENCE_S
from tests.service.fakes import (
    Cluster,
    Stubs,
    answered_after,
    cluster_of,
    fails,
    stubs_of,
    until,
)
from tq.v1 import queue_service_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.operations import Caller, Claim, ConfigureQueue, Outcome, Replied, Submit
from tq_cluster.core.model.types import Principal
from tq_cluster.errors import OutcomeUnknownError
from tq_cluster.service import aimd_window, call, entrance, routing
from tq_cluster.service.peer_authentication import Said, digest_of, marked
from tq_common.limits import TERM_STEP_MAX

SUBMIT = task_service_pb2.SubmitRequest(request_id="r1")
UNNAMED = task_service_pb2.SubmitRequest()


def submitted(task_id: str) -> Replied:
    reply = task_service_pb2.SubmitResponse()
    reply.results.add().task.task_id = task_id
    return Replied(reply=reply)


async def test_a_follower_answers_with_what_the_leader_decided_and_says_who_leads() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 7)

        async def decide() -> Outcome:
            return submitted("t1")

        cluster["n1"].leader.answer = decide
        calling = stubs.tasks.Submit(
            SUBMIT,
            timeout=PATIENCE_S,
            metadata=(("x-request-id", "call-1"), ("traceparent", "00-ab")),
        )
        reply = await calling
        trailing = dict(await calling.trailing_metadata())

    assert reply.results[0].task.task_id == "t1"
    assert trailing["tq-leader"] == cluster["n1"].address
    assert trailing["tq-term"] == "7"
    assert trailing["x-request-id"] == "call-1"
    [operation] = cluster["n1"].leader.asked
    assert operation == Submit(
        request=SUBMIT, id_seed="r1", caller=Caller(namespace=0, traceparent="00-ab")
    )
    assert cluster["n2"].leader.asked == []


async def test_a_call_without_a_leader_waits_for_one_and_is_then_answered() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        calling = stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        await until(lambda: cluster["n2"].service.calls == 1, "the call arrives")
        cluster["n2"].log.hear_of("n1", 2)  # which does not know it yet, and says so
        cluster["n1"].log.hear_of("n1", 2)

        await calling

    assert len(cluster["n1"].leader.asked) == 1


@pytest.mark.parametrize("since", ["before the call", "during the call"])
async def test_a_node_that_is_not_a_member_has_its_callers_ask_another_at_once(since: str) -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        if since == "before the call":
            cluster["n2"].log.be_stranger()
        calling = stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        if since == "during the call":
            await until(lambda: cluster["n2"].service.calls == 1, "the call arrives")
            cluster["n2"].log.be_stranger()

        with fails() as failure:
            await calling

    assert failure.reason == "NO_LEADER"
    assert "not a member of its peers' cluster" in failure.message
    assert failure.retry_after_ms is not None


@pytest.mark.slow
async def test_no_leader_within_the_deadline_is_said_before_the_deadline() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        with answered_after(1.0) as timeout_s, fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=timeout_s)

    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_LEADER")
    assert failure.trailing["tq-term"] == "1"
    assert "tq-leader" not in failure.trailing


@pytest.mark.slow
async def test_a_leader_that_cannot_be_reached_was_certainly_not_asked() -> None:
    async with cluster_of("n1", absent=("n2",)) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n2", 2)

        with answered_after(1.0) as timeout_s, fails() as failure:
            await stubs.tasks.Submit(UNNAMED, timeout=timeout_s)

    assert failure.reason == "NO_LEADER"


@pytest.mark.parametrize("leader_id", ["n1", None])
async def test_a_caller_that_wants_no_forwarding_is_told_who_leads(leader_id: str | None) -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect(leader_id, 2)

        with fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=5, metadata=(("tq-no-forward", "1"),))

    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER")
    assert failure.metadata == {"leader": cluster["n1"].address if leader_id else ""}


@pytest.mark.slow
async def test_a_forwarded_call_is_never_forwarded_again() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster["n1"].log.hear_of("n2", 2)
        cluster["n2"].log.hear_of("n1", 2)

        with fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=2)

    # Unknown if the last of several attempts was under way at the deadline.
    assert failure.reason in {"NO_LEADER", "OUTCOME_UNKNOWN"}
    assert cluster["n1"].leader.asked == cluster["n2"].leader.asked == []


@pytest.mark.slow
async def test_a_caller_that_knows_of_a_later_term_is_not_sent_to_the_leader_of_an_earlier() -> (
    None
):
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 3)
        metadata = (("tq-min-term", "4"),)

        with fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=2, metadata=metadata)
        cluster.elect("n2", 4)
        await stubs.tasks.Submit(SUBMIT, timeout=5, metadata=metadata)

    assert failure.reason == "NO_LEADER"
    assert cluster["n1"].leader.asked == []
    assert len(cluster["n2"].leader.asked) == 1


@pytest.mark.parametrize(
    "min_term", [str(3 + TERM_STEP_MAX + 1), str(2**62), str(2**64 - 1), "9" * 4000]
)
async def test_a_term_that_no_broker_can_have_reached_is_not_waited_for(min_term: str) -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 3)

        with fails() as failure:
            metadata = (("tq-min-term", min_term),)
            await stubs.tasks.Submit(SUBMIT, timeout=3600, metadata=metadata)

    assert failure.reason == "NO_LEADER"
    assert "tq-min-term: term" in failure.message
    assert cluster["n1"].leader.asked == []


async def lose_leader_while_it_decides(cluster: Cluster, after_s: float = 0) -> None:
    """The leader dies ``after_s`` after a call has reached it, and n3 follows it."""
    leader = cluster["n1"].leader
    leader.answer = asyncio.Event().wait  # type: ignore[assignment]  # never answers
    await leader.arrived.wait()
    loop = asyncio.get_running_loop()
    dies_s = loop.time() + after_s
    await until(lambda: loop.time() >= dies_s, "the leader's hour")
    await cluster["n1"].service._server.stop(None)
    for node_id in ("n2", "n3"):
        cluster[node_id].log.hear_of("n3", 3)


async def test_a_named_submit_is_repeated_at_the_next_leader_when_the_link_breaks() -> None:
    async with cluster_of("n1", "n2", "n3") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        calling = stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        await lose_leader_while_it_decides(cluster)

        await calling

    assert [operation.id_seed for operation in cluster["n3"].leader.asked] == ["r1"]


async def test_an_unnamed_submit_whose_link_broke_is_unknown_and_not_repeated() -> None:
    async with cluster_of("n1", "n2", "n3") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        calling = stubs.tasks.Submit(UNNAMED, timeout=PATIENCE_S)
        await lose_leader_while_it_decides(cluster)

        with fails() as failure:
            await calling

    # No code that a retry policy repeats: made again it would create its tasks again.
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN")
    assert cluster["n3"].leader.asked == []


async def test_a_queue_is_not_configured_twice_when_the_link_breaks() -> None:
    async with cluster_of("n1", "n2", "n3") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        calling = stubs.queues.ConfigureQueue(
            queue_service_pb2.ConfigureQueueRequest(queue="q"), timeout=PATIENCE_S
        )
        await lose_leader_while_it_decides(cluster)

        with fails() as failure:
            await calling

    assert failure.reason == "OUTCOME_UNKNOWN"
    [operation] = cluster["n1"].leader.asked
    assert isinstance(operation, ConfigureQueue)
    assert cluster["n3"].leader.asked == []


async def test_a_leader_that_falls_silent_is_given_up_once_another_leads() -> None:
    async with cluster_of("n1", "n2", "n3") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        leader = cluster["n1"].leader
        leader.answer = asyncio.Event().wait  # type: ignore[assignment]  # never answers
        calling = stubs.tasks.Submit(SUBMIT, timeout=200)
        await leader.arrived.wait()
        for node_id in ("n2", "n3"):
            cluster[node_id].log.hear_of("n3", 3)

        async with asyncio.timeout(PATIENCE_S):
            await calling

    assert len(cluster["n3"].leader.asked) == 1
    assert leader.cancelled == 1


async def test_an_outcome_unknown_to_the_leader_itself_is_learned_by_asking_again() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        leader = cluster["n1"].leader

        async def lose_it() -> Outcome:
            leader.answer = None
            raise OutcomeUnknownError("leadership ended")

        leader.answer = lose_it
        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        assert len(leader.asked) == 2

        leader.answer = lose_it
        with fails() as failure:
            await stubs.tasks.Submit(UNNAMED, timeout=5)

    assert failure.reason == "OUTCOME_UNKNOWN"
    assert len(leader.asked) == 3


@pytest.mark.slow
async def test_a_call_that_may_have_been_applied_is_unknown_when_no_leader_is_found_after_it() -> (
    None
):
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)

        async def lose_it() -> Outcome:
            cluster.elect(None, 2)
            raise OutcomeUnknownError("leadership ended")

        cluster["n1"].leader.answer = lose_it
        with answered_after(1.0) as timeout_s, fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=timeout_s)

    assert failure.reason == "OUTCOME_UNKNOWN"


async def leaders_break(cluster: Cluster) -> None:
    """Every leader loses the lead over every call that it is given."""

    async def lose_it() -> Outcome:
        raise OutcomeUnknownError("leadership ended")

    cluster.elect("n1", 1)
    cluster["n1"].leader.answer = lose_it


@pytest.mark.parametrize(
    ("request_bytes", "asked"),
    [(10, 1 + routing.BROKEN_MAX), (routing.HEAVY_BYTES, 1 + routing.BROKEN_OVER_HEAVY_MAX)],
)
async def test_a_call_over_which_leaders_break_is_not_sent_to_one_after_the_other(
    request_bytes: int, asked: int
) -> None:
    request = task_service_pb2.SubmitRequest(request_id="r1")
    request.tasks.add(queue="q", type="t", payload=bytes(request_bytes))
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        await leaders_break(cluster)
        with fails() as failure:
            await stubs.tasks.Submit(request, timeout=20)

    assert len(cluster["n1"].leader.asked) == asked
    # It may have been applied, and what repeats UNAVAILABLE is not to repeat it.
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNKNOWN, "OUTCOME_UNKNOWN")
    assert failure.metadata == {"limit": str(asked - 1), "actual": str(asked)}


async def test_a_read_over_which_leaders_break_is_refused_and_nobody_is_told_to_try_again() -> None:
    request = worker_service_pb2.ListWorkersRequest(page_token="x" * routing.HEAVY_BYTES)
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        await leaders_break(cluster)
        with fails() as failure:
            await stubs.worker.ListWorkers(request, timeout=20)

    assert len(cluster["n1"].leader.asked) == 2
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert failure.retry_after_ms is None


@pytest.mark.slow
async def test_a_long_poll_outlives_any_number_of_leaders() -> None:
    claim = worker_service_pb2.ClaimRequest(worker_id="w", request_id="c1")
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        leader = cluster["n1"].leader

        async def lose_it() -> Outcome:
            if len(leader.asked) > 2 * routing.BROKEN_MAX:
                leader.answer = None
            raise OutcomeUnknownError("leadership ended")

        leader.answer = lose_it
        await stubs.worker.Claim(claim, timeout=PATIENCE_S)


@pytest.mark.slow
async def test_a_long_poll_is_held_by_the_next_leader_after_a_failover() -> None:
    request = worker_service_pb2.ClaimRequest(
        worker_id="w", queues=["q"], max_tasks=1, request_id="c1"
    )
    request.wait.FromSeconds(30)
    async with cluster_of("n1", "n2", "n3") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        claiming = stubs.worker.Claim(request, timeout=PATIENCE_S)
        await lose_leader_while_it_decides(cluster, after_s=0.5)
        lost_s = asyncio.get_running_loop().time()

        await claiming

    first, second = cluster["n1"].leader.asked[0], cluster["n3"].leader.asked[0]
    assert isinstance(first, Claim)
    assert first.request == second.request == request
    # What it waited at the first leader counts: the worker measures its lease from its own sending.
    assert cluster["n3"].leader.received_s[0] < lost_s


async def test_a_retry_that_waited_here_is_sent_on_with_a_greater_age(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = task_service_pb2.SubmitRequest(request_id="r1")
    request.retry_age.FromSeconds(5)
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)

        await stubs.tasks.Submit(request, timeout=PATIENCE_S)
        monkeypatch.setattr(call, "AGED_AFTER_S", 0.0)  # as if it had waited long
        await stubs.tasks.Submit(request, timeout=PATIENCE_S)

    young, old = (operation.request.retry_age for operation in cluster["n1"].leader.asked)
    assert young.ToMilliseconds() == 5_000
    assert old.ToMicroseconds() > 5_000_000


async def test_calls_wait_here_while_the_leader_is_behind_but_long_polls_and_reports_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aimd_window, "SLOW_S", -1.0)  # every call then says that it has waited long
    monkeypatch.setattr(aimd_window, "LEAST", 1)
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        asked = cluster["n1"].leader.asked
        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        answered = asyncio.Event()

        async def decide() -> Outcome:
            await answered.wait()
            return submitted("t1")

        cluster["n1"].leader.answer = decide
        sent = stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        await until(lambda: len(asked) == 2, "one is under way")
        with answered_after(0.3) as timeout_s, fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=timeout_s)
        waits = stubs.tasks.Submit(SUBMIT, timeout=20)
        await until(lambda: cluster["n2"].service.calls == 2, "one waits")
        claim = stubs.worker.Claim(worker_service_pb2.ClaimRequest(), timeout=PATIENCE_S)
        heartbeat = stubs.worker.Heartbeat(
            worker_service_pb2.HeartbeatRequest(), timeout=PATIENCE_S
        )
        report = stubs.worker.Report(worker_service_pb2.ReportRequest(), timeout=PATIENCE_S)
        wait = stubs.tasks.WaitTask(task_service_pb2.WaitTaskRequest(), timeout=PATIENCE_S)
        # Another kind of call is held back by its own.
        cancel = stubs.tasks.CancelTask(task_service_pb2.CancelTaskRequest(), timeout=PATIENCE_S)
        await until(lambda: len(asked) == 7, f"what is not held back: {asked}")
        answered.set()
        await sent
        await waits
        for call_ in (claim, heartbeat, report, wait, cancel):
            call_.cancel()

    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert len([each for each in asked if isinstance(each, Submit)]) == 3  # all but the shed one


async def test_a_call_that_waits_for_a_leader_that_is_behind_goes_to_the_next_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aimd_window, "SLOW_S", -1.0)
    monkeypatch.setattr(aimd_window, "LEAST", 1)
    async with cluster_of("n1", "n2", "n3") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)

        async def never() -> Outcome:
            await asyncio.Event().wait()
            raise AssertionError

        cluster["n1"].leader.answer = never
        asked = cluster["n1"].leader.asked
        silent = stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        await until(lambda: len(asked) == 2, "one is under way")
        waits = stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        await until(lambda: cluster["n2"].service.calls == 2, "one waits")
        for node_id in ("n2", "n3"):  # n1 has not heard of it
            cluster[node_id].log.hear_of("n3", 3)
        await waits
        await silent

    assert len(asked) == 2
    assert len(cluster["n3"].leader.asked) == 2


async def test_a_call_is_not_sent_to_a_leader_that_was_deposed_while_it_waited_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster_of("n1", "n2", "n3") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)

        async def never() -> Outcome:
            await asyncio.Event().wait()
            raise AssertionError

        cluster["n1"].leader.answer = never
        enter = aimd_window.Window.enter

        async def turn_comes_with_an_election(self: aimd_window.Window, answer_by_s: float) -> None:
            await enter(self, answer_by_s)
            for node_id in ("n2", "n3"):  # n1 has not heard of it
                cluster[node_id].log.hear_of("n3", 3)

        monkeypatch.setattr(aimd_window.Window, "enter", turn_comes_with_an_election)
        await stubs.tasks.Submit(UNNAMED, timeout=PATIENCE_S)

    assert cluster["n1"].leader.asked == []


async def test_a_forwarded_call_carries_its_caller() -> None:
    async with cluster_of("n1", "n2") as cluster, as_alice(cluster) as stubs:
        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S, metadata=(("x-request-id", "call-1"),))

    [operation] = cluster["n1"].leader.asked
    assert operation.caller.principal == "alice"


async def test_a_client_cannot_pass_for_a_node_that_says_whose_call_it_is() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        metadata = (("tq-hop", "n2"), ("tq-principal", "alice"), ("tq-peer-proof", "guess"))

        with fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=5, metadata=metadata)

    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert cluster["n1"].leader.asked == []


async def test_a_node_of_another_cluster_is_not_believed() -> None:
    async with cluster_of("n1", "n2") as cluster, as_alice(cluster) as stubs:
        cluster["n2"].membership = ("c2", {"n1": "inc-n1", "n2": "inc-n2"})

        with fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=5)

    assert failure.reason == "UNAUTHENTICATED"


HOP = (("tq-hop", "n2"), ("tq-elapsed-ms", "999999999999999999"))


async def test_a_caller_that_passes_for_a_node_has_not_waited_for_longer_than_it_has() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        asked_s = asyncio.get_running_loop().time()

        await stubs.worker.Claim(
            worker_service_pb2.ClaimRequest(), timeout=PATIENCE_S, metadata=HOP
        )

    assert cluster["n1"].leader.received_s[0] >= asked_s


async def test_a_caller_that_passes_for_a_node_is_asked_who_it_is() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        entrance = cluster["n1"].service._router._entrance
        entrance._authenticate = lambda _metadata: Principal("mallory")

        await stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S, metadata=HOP)

    [operation] = cluster["n1"].leader.asked
    assert operation.caller.principal == "mallory"


async def test_what_says_that_it_was_forwarded_is_not_forwarded_again_believed_or_not() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)

        with fails() as failure:
            await stubs.tasks.Submit(SUBMIT, timeout=5, metadata=HOP)

    assert failure.reason == "NOT_LEADER"
    assert cluster["n1"].leader.asked == []


async def test_a_proof_is_of_one_method_and_one_time_and_no_time_is_longer_than_an_hour() -> None:
    claim = worker_service_pb2.ClaimRequest()
    path, elapsed = "/tq.v1.WorkerService/Claim", marked(7_200_000)
    digest = await digest_of(claim.SerializeToString())
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        sign = cluster["n1"].service._router._entrance._proof.sign
        asked_s = asyncio.get_running_loop().time()
        for said_path, said_elapsed in (
            (path, elapsed),
            (path, marked(1)),
            ("/tq.v1.WorkerService/Report", elapsed),
        ):
            said = Said(principal="", path=said_path, hop="n2", elapsed=said_elapsed, digest=digest)
            headers = (
                ("tq-hop", "n2"),
                ("tq-elapsed-ms", elapsed),
                ("tq-digest", digest),
                ("tq-peer-proof", sign(said) or ""),
            )
            await stubs.worker.Claim(claim, timeout=PATIENCE_S, metadata=headers)

    proven_s, *forged_s = cluster["n1"].leader.received_s
    assert asked_s - entrance.HOP_S_MAX <= proven_s < asked_s - entrance.HOP_S_MAX + 60
    assert min(forged_s) >= asked_s


@asynccontextmanager
async def as_alice(cluster: Cluster) -> AsyncIterator[Stubs]:
    """Call a follower n2 that takes its caller for alice; n1 leads."""
    node = cluster["n2"]
    entrance = node.service._router._entrance
    entrance._authenticate = lambda _metadata: Principal("alice")
    cluster.elect("n1", 2)
    async with stubs_of(node) as stubs:
        yield stubs


async def test_a_call_whose_channel_is_closed_under_it_is_sent_again() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 2)
        leader = cluster["n1"].leader
        leader.answer = asyncio.Event().wait  # type: ignore[assignment]  # never answers
        calling = stubs.tasks.Submit(SUBMIT, timeout=PATIENCE_S)
        await leader.arrived.wait()
        leader.answer = None
        cluster["n2"].service._links.forget(cluster["n1"].address)  # as of one that came back

        await calling

    assert len(leader.asked) == 2
