"""What a node holds for its callers is bounded, and shared between their addresses."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.patience import PATIENCE_S
from tests.service.fakes import cluster_of, fails, stubs_of, until
from tq.v1 import task_pb2, task_service_pb2, worker_service_pb2
from tq_cluster.core.model.operations import Outcome, Replied, Report
from tq_cluster.service import admission, intake
from tq_cluster.service.admission import Admission, caller_of
from tq_cluster.service.errors import CallError
from tq_cluster.service.intake import Intake, SlowRequestError
from tq_cluster.service.policy import Policy, policy_of
from tq_cluster.service.routing import Router
from tq_cluster.service.shares import Shared

SUBMIT = policy_of(task_service_pb2.SubmitRequest, "Submit")
Raw = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
CLAIM = policy_of(worker_service_pb2.ClaimRequest, "Claim")


# ---------------------------------------------------------------- shares


def test_a_caller_alone_gets_two_thirds_and_leaves_room_for_the_next() -> None:
    shared = Shared("things", 90)
    taken = sum(shared.take("a", 1) for _ in range(90))

    assert taken == 60
    assert shared.take("b", 1)
    assert shared.refused == 30


def test_callers_that_take_what_they_can_leave_something_to_the_next() -> None:
    shared = Shared("things", 1_000)
    for caller in ("a", "b", "c", "d"):
        while shared.take(caller, 1):
            pass

    assert shared.held < 1_000
    assert shared.take("late", 1)


def test_what_is_given_back_can_be_had_again() -> None:
    shared = Shared("things", 3)
    assert shared.take("a", 2)
    assert not shared.take("a", 1)
    shared.give_back("a", 2)

    assert shared.held == shared.of("a") == 0
    assert shared.take("a", 2)


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("ipv4:10.0.0.1:5000", "ipv4:10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2::9%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("unix:", "unix"),
        ("", ""),
    ],
)
def test_a_share_is_an_addresss_or_a_networks_whatever_the_port(peer: str, caller: str) -> None:
    assert caller_of(peer) == caller


# ---------------------------------------------------------------- calls


def admitted(held: Admission, caller: str, policy: Policy = SUBMIT) -> int:
    """How many calls of ``caller`` are taken before one is refused."""
    for count in range(1_000):
        try:
            held.admit(caller, policy)
        except CallError:
            return count
    raise AssertionError("no end of it")


async def test_an_address_that_holds_all_calls_keeps_no_other_out() -> None:
    held = Admission(80)

    assert admitted(held, "greedy") == 80
    assert admitted(held, "late") == 5
    assert admitted(held, "later") == 5
    assert admitted(held, "last") == 0
    assert held.refused()["calls"] == 4


async def test_calls_that_wait_leave_room_for_those_that_report() -> None:
    held = Admission(80)
    polls = admitted(held, "greedy", policy=CLAIM)
    for caller in range(20):
        polls += admitted(held, f"10.0.0.{caller}", policy=CLAIM)

    assert 40 <= polls <= 60
    assert admitted(held, "reports") >= 20
    assert held.refused()["long_polls"] == 21


async def test_a_call_counts_until_its_reply_is_read() -> None:
    held = Admission(80)
    call = held.admit("a", SUBMIT)
    held.reply(call, 1 << 20, must=False)
    held.answered(call)

    assert (held.calls, held.reply_bytes) == (1, 1 << 20)
    held.end(call)
    assert (held.calls, held.reply_bytes) == (0, 0)


async def test_a_reply_that_outgrew_the_room_kept_for_it_has_to_fit_like_any_other() -> None:
    held = Admission(80)
    call = held.admit("a", SUBMIT)
    held.reserve(call, 20 << 20)
    held.reply(call, 18 << 20, must=False)
    assert held.reply_bytes == 18 << 20

    later = held.admit("a", SUBMIT)
    held.reserve(later, 10 << 20)
    with pytest.raises(CallError):
        held.reply(later, 28 << 20, must=False)
    held.end(later)
    assert held.reply_bytes == 18 << 20


# ---------------------------------------------------------------- reading


async def never() -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def after(event: asyncio.Event) -> bytes:
    await event.wait()
    return b"request"


async def test_so_many_requests_are_read_at_once_and_the_others_wait_each_caller_in_turn() -> None:
    node = Intake(reads_max=3)
    loop = asyncio.get_running_loop()
    sent = asyncio.Event()
    order: list[str] = []

    async def read(caller: str) -> None:
        await node.read(caller, lambda: after(sent), loop.time() + 30)
        order.append(caller)

    reads = [asyncio.create_task(read("a")) for _ in range(5)]
    await asyncio.sleep(0)
    assert (node.reading, node.waiting) == (2, 3)  # an address alone gets two thirds
    reads += [asyncio.create_task(read("b")) for _ in range(2)]
    await asyncio.sleep(0)
    assert (node.reading, node.waiting) == (2, 5)
    sent.set()
    await asyncio.gather(*reads)

    assert sorted(order) == ["a"] * 5 + ["b"] * 2
    assert order.index("b") < 4
    assert (node.reading, node.waiting) == (0, 0)


async def test_a_request_that_comes_slowly_makes_way_for_one_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "YIELDS_EARLY_S", 0.0)
    node = Intake(reads_max=4)
    until_s = asyncio.get_running_loop().time() + 30
    slow = [asyncio.create_task(node.read("slow", never, until_s)) for _ in range(2)]
    await asyncio.sleep(0)
    other = asyncio.create_task(node.read("other", never, until_s))
    await asyncio.sleep(0)
    sent = asyncio.Event()
    sent.set()

    assert await node.read("late", lambda: after(sent), until_s) == b"request"

    [cut, kept] = slow
    with pytest.raises(SlowRequestError, match="in full"):
        await cut
    assert not kept.done()
    assert node.cut_off == 1
    assert not other.done()
    kept.cancel()
    other.cancel()
    await asyncio.gather(kept, other, return_exceptions=True)
    assert node.reading == 0


async def test_a_request_that_comes_slowly_is_read_while_those_that_wait_are_read_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake, "YIELDS_AFTER_S", 0.0)
    node = Intake(reads_max=4)
    until_s = asyncio.get_running_loop().time() + 30
    sent = asyncio.Event()
    slow = asyncio.create_task(node.read("busy", lambda: after(sent), until_s))
    looks = 0

    async def at_once() -> bytes:
        await asyncio.sleep(0)
        return b"request"

    def look() -> None:
        nonlocal looks
        looks += 1
        assert node.waiting
        Intake._make_way(node)

    monkeypatch.setattr(node, "_make_way", look)

    async def keep_on() -> None:
        while looks < 3:
            await node.read("busy", at_once, until_s)

    await asyncio.gather(*(keep_on() for _ in range(20)))
    sent.set()

    assert await slow == b"request"
    assert node.cut_off == 0


async def test_of_one_address_each_connection_is_read_in_turn() -> None:
    node = Intake(reads_max=3)
    until_s = asyncio.get_running_loop().time() + 30
    sent = asyncio.Event()
    order: list[str] = []

    async def read(connection: str) -> None:
        await node.read("one address", lambda: after(sent), until_s, connection)
        order.append(connection)

    reading = [asyncio.create_task(read("greedy")) for _ in range(20)]
    await asyncio.sleep(0)
    reading += [asyncio.create_task(read("other")) for _ in range(2)]
    await asyncio.sleep(0)
    sent.set()
    await asyncio.gather(*reading)

    assert [at for at, connection in enumerate(order) if connection == "other"][-1] <= 6
    assert (node.reading, node.waiting) == (0, 0)


async def test_a_caller_that_is_gone_while_it_waits_its_turn_leaves_no_trace() -> None:
    node = Intake(reads_max=1)
    until_s = asyncio.get_running_loop().time() + 30
    first = asyncio.create_task(node.read("a", never, until_s))
    await asyncio.sleep(0)
    second = asyncio.create_task(node.read("b", never, until_s))
    await asyncio.sleep(0)
    # Given its turn, and cancelled, in the same turn of the loop.
    first.cancel()
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)

    assert (node.reading, node.waiting) == (0, 0)


async def test_a_request_that_does_not_come_by_the_calls_deadline_is_given_up() -> None:
    node = Intake(reads_max=1)
    now_s = asyncio.get_running_loop().time()
    reading = asyncio.create_task(node.read("a", never, now_s + 0.05))
    await asyncio.sleep(0)

    with pytest.raises(SlowRequestError):
        await node.read("b", never, now_s)
    with pytest.raises(SlowRequestError):
        await reading
    assert node.reading == 0


# ---------------------------------------------------------------- over gRPC


def submit(payload: bytes) -> task_service_pb2.SubmitRequest:
    return task_service_pb2.SubmitRequest(
        request_id="r", tasks=[task_pb2.TaskSpec(queue="q", type="t", payload=payload)]
    )


async def test_a_request_is_refused_by_its_bytes_before_anybody_looks_into_it() -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        raw: Raw = stubs.channel.unary_unary("/tq.v1.WorkerService/Claim")
        with fails() as failure:
            await raw(b"\xff" * 70_000, timeout=5)

    assert (failure.code, failure.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "PAYLOAD_TOO_LARGE",
    )
    assert failure.metadata == {"limit": "65536", "actual": "70000"}
    assert cluster["n1"].leader.asked == cluster["n2"].leader.asked == []


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_a_request_of_too_many_items_is_refused_by_the_node_that_is_asked(
    asked: str,
) -> None:
    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster[asked]) as stubs:
        cluster.elect("n1", 1)
        raw: Raw = stubs.channel.unary_unary("/tq.v1.TaskService/Submit")
        with fails() as failure:
            await raw(b"\x1a\x00" * 1_001, timeout=5)

    assert failure.reason == "INVALID_ARGUMENT"
    assert failure.metadata == {"field": "tasks", "limit": "1000", "actual": "over 1000"}
    assert cluster["n1"].leader.asked == []


async def test_what_does_not_fit_beside_what_is_held_is_refused_and_taken_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "REQUEST_BYTES_MAX", 3 << 20)
    gate = asyncio.Event()

    async def wait() -> Outcome:
        await gate.wait()
        return Replied(reply=task_service_pb2.SubmitResponse())

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n1"].leader.answer = wait
        large = submit(bytes(1 << 20))
        held = asyncio.ensure_future(stubs.tasks.Submit(large, timeout=PATIENCE_S))
        await until(lambda: len(cluster["n1"].leader.asked) == 1, "the first is held")
        with fails() as failure:
            await stubs.tasks.Submit(submit(bytes(3 << 20 >> 1)), timeout=20)
        await_small = asyncio.ensure_future(stubs.tasks.Submit(submit(b""), timeout=20))
        gate.set()
        await held
        await await_small
        await stubs.tasks.Submit(large, timeout=PATIENCE_S)
        service = cluster["n1"].service
        await until(lambda: service.calls == 0, "all are over")
        assert service.admission.request_bytes == 0

    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert failure.metadata == {"limit_name": "request_bytes", "limit": str(3 << 20)}
    assert failure.retry_after_ms == 500


@pytest.mark.slow
async def test_a_request_that_is_never_sent_ends_at_the_calls_deadline_and_holds_nothing() -> None:
    async def silence() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        stream: Any = stubs.channel.stream_unary("/tq.v1.TaskService/Submit")
        with fails() as failure:
            await stream(silence(), timeout=1)
        await until(lambda: cluster["n1"].service.calls == 0, "the call is over")

    assert failure.reason == "OVERLOADED"
    assert failure.metadata["limit_name"] == "request_read_time"


async def test_a_call_without_a_request_is_told_so() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        none: list[bytes] = []
        for each in none:
            yield each

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        stream: Any = stubs.channel.stream_unary("/tq.v1.TaskService/Submit")
        with fails() as failure:
            await stream(nothing(), timeout=5)

    assert failure.reason == "INVALID_ARGUMENT"


class Reads:
    """A leader that answers WaitTask with a large task."""

    def __init__(self, payload_bytes: int) -> None:
        task = task_pb2.Task(spec=task_pb2.TaskSpec(payload=bytes(payload_bytes)))
        self.reply = Replied(reply=task_service_pb2.WaitTaskResponse(task=task))

    async def answer(self) -> Outcome:
        return self.reply


@pytest.mark.parametrize("asked", ["n1", "n2"])
async def test_replies_that_are_not_read_count_and_what_does_not_fit_beside_them_is_refused(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the leader as of a node that only passes them on."""
    monkeypatch.setattr(admission, "REPLY_BYTES_MAX", 4 << 20)
    wait = task_service_pb2.WaitTaskRequest(task_id="t")
    async with cluster_of("n1", "n2") as cluster:
        cluster.elect("n1", 1)
        node = cluster[asked]
        cluster["n1"].leader.answer = Reads(1 << 20).answer
        held = node.service.admission
        # A caller whose window for answers is small, and who reads none of them.
        options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1_024)]
        async with grpc.aio.insecure_channel(node.address, options=options) as channel:
            stream: Any = channel.unary_stream("/tq.v1.TaskService/WaitTask")
            slow = [stream(wait.SerializeToString(), timeout=PATIENCE_S) for _ in range(2)]
            await until(lambda: held.reply_bytes > 2 << 20, "two replies wait to be read")
            async with stubs_of(node) as stubs:
                with fails() as refused:
                    await stubs.tasks.WaitTask(wait, timeout=10)
                # What is small is answered all the same.
                cluster["n1"].leader.answer = Reads(10).answer
                await stubs.tasks.WaitTask(
                    task_service_pb2.WaitTaskRequest(task_id="small"), timeout=PATIENCE_S
                )
                cluster["n1"].leader.answer = Reads(1 << 20).answer
                for each in slow:
                    each.cancel()
                await until(lambda: held.reply_bytes == 0, "they are let go")
                await stubs.tasks.WaitTask(wait, timeout=PATIENCE_S)

    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert refused.metadata["limit_name"] == "reply_bytes"


async def test_a_reply_that_did_not_fit_is_not_made_again_while_it_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "REPLY_BYTES_MAX", 1 << 20)
    wait = task_service_pb2.WaitTaskRequest(task_id="t")
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        leader = cluster["n1"].leader
        leader.answer = Reads(1 << 20).answer
        for _ in range(3):
            with fails() as failure:
                await stubs.tasks.WaitTask(wait, timeout=10)
            assert failure.metadata["limit_name"] == "reply_bytes"

    assert len(leader.asked) == 1


async def test_a_reply_that_is_refused_is_not_held_by_its_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "REPLY_BYTES_MAX", 1 << 20)
    there: list[str] = []

    class Large(bytes):
        def __init__(self, _raw: bytes) -> None:
            there.append("reply")

        def __del__(self) -> None:
            there.remove("reply")

    serialized = Router._serialized
    monkeypatch.setattr(Router, "_serialized", lambda *asked: Large(serialized(*asked)))
    gc.collect()
    gc.disable()
    try:
        async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
            cluster.elect("n1", 1)
            cluster["n1"].leader.answer = Reads(1 << 20).answer
            wait = task_service_pb2.WaitTaskRequest(task_id="t")
            with fails() as failure:
                await stubs.tasks.WaitTask(wait, timeout=10)
            await until(lambda: cluster["n1"].service.calls == 0, "the call is over")
            assert there == []
    finally:
        gc.enable()
    assert failure.reason == "OVERLOADED"


async def test_tasks_of_a_claim_whose_reply_does_not_fit_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "REPLY_BYTES_MAX", 1 << 20)
    granted = worker_service_pb2.ClaimResponse()
    granted.tasks.add(token=7).spec.payload = bytes(1 << 20)

    async def grant() -> Outcome:
        return Replied(reply=granted)

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        leader = cluster["n1"].leader
        leader.answer = grant
        with fails() as failure:
            await stubs.worker.Claim(worker_service_pb2.ClaimRequest(worker_id="w"), timeout=10)

    assert failure.reason == "OVERLOADED"
    [(claim, outcome)] = leader.given_back
    assert claim.request.worker_id == "w"
    assert outcome == Replied(reply=granted)


async def test_tasks_of_a_claim_that_was_sent_on_are_given_back_where_they_were_granted() -> None:
    granted = worker_service_pb2.ClaimResponse()
    for number in range(2):
        task = granted.tasks.add(token=7 + number)
        task.spec.task_id, task.spec.payload = f"t{number}", bytes(1 << 20)

    async def grant() -> Outcome:
        return Replied(reply=granted)

    async with cluster_of("n1", "n2") as cluster, stubs_of(cluster["n2"]) as stubs:
        cluster.elect("n1", 1)
        leader = cluster["n1"].leader
        leader.answer = grant
        # Nothing more fits at the node that is asked.
        cluster["n2"].service.admission._replies.add("other", admission.REPLY_BYTES_MAX)
        with fails() as failure:
            await stubs.worker.Claim(worker_service_pb2.ClaimRequest(worker_id="w"), timeout=10)
        leader.answer = None
        await until(lambda: len(leader.asked) == 2, "the leader is told")

    assert failure.reason == "OVERLOADED"
    report = leader.asked[1]
    assert isinstance(report, Report)
    assert report.request.worker_id == "w"
    released = [(each.task_id, each.token) for each in report.request.reports]
    assert released == [("t0", 7), ("t1", 8)]
    assert all(each.HasField("release") for each in report.request.reports)


async def test_what_a_call_has_done_is_told_however_full_the_node_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "REPLY_BYTES_MAX", 10)
    done = task_service_pb2.SubmitResponse()
    done.results.add().task.task_id = "t" * 10_000

    async def decide() -> Outcome:
        return Replied(reply=done)

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n1"].leader.answer = decide

        assert await stubs.tasks.Submit(submit(b""), timeout=PATIENCE_S) == done


async def test_one_answer_for_many_callers_is_made_once() -> None:
    made: list[int] = []

    class Counted:
        def SerializeToString(self) -> bytes:
            made.append(1)
            return bytes(admission.SMALL_BYTES << 5)

    reply = Replied(reply=Counted())  # type: ignore[arg-type]
    together = asyncio.Barrier(5)

    async def answer() -> Outcome:
        await together.wait()
        return reply

    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        cluster["n1"].leader.answer = answer
        raw: Raw = stubs.channel.unary_unary("/tq.v1.TaskService/WaitTask")
        await asyncio.gather(*(raw(b"", timeout=PATIENCE_S) for _ in range(5)))

    assert len(made) == 1
