"""What a caller must be allowed to do stands in the protos, and is asked of one hook."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from tests.core.lone_queue import LoneQueue, spec
from tests.patience import PATIENCE_S
from tests.service.fakes import Node, Stubs, cluster_of, fails, stubs_of
from tq.v1 import (
    cluster_service_pb2,
    options_pb2,
    queue_service_pb2,
    task_pb2,
    task_service_pb2,
    worker_service_pb2,
)
from tq_cluster.core.features import CLUSTER_VERSION
from tq_cluster.core.model.namespaces import Namespaces
from tq_cluster.core.model.types import DEFAULT_NAMESPACE, Principal
from tq_cluster.errors import StartError
from tq_cluster.service import paths, policy
from tq_cluster.service.call import Header
from tq_cluster.service.errors import permission_denied
from tq_cluster.service.paths import Path
from tq_cluster.service.policy import Verb, policy_of

TASK = "task_id"
CONTENT = ("read-content", {"task": TASK}, "unless omit_payload")
RULES: dict[str, tuple[str, dict[str, object], list[object]]] = {
    "Submit": ("submit", {"queue": "tasks.queue"}, []),
    "SubmitTogether": ("submit", {"queue": "tasks.queue"}, []),
    "GetTask": ("read", {"task": TASK}, [CONTENT]),
    "ListTasks": ("read", {"queue": "queue"}, []),
    "WaitTask": ("read", {"task": TASK}, [CONTENT]),
    "CancelTask": ("cancel", {"task": TASK}, []),
    "Claim": ("work", {"queue": "queues"}, []),
    "Heartbeat": ("work", {"task": "leases.task_id"}, []),
    "Report": (
        "work",
        {"task": "reports.task_id"},
        [("submit", {"queue": "reports.complete.submit.queue"}, "")],
    ),
    "ListWorkers": ("read", {"all_queues": True}, []),
    "GetQueueStats": ("read", {"queue": "queue"}, []),
    "ListQueues": ("read", {"all_queues": True}, []),
    "ConfigureQueue": ("configure", {"queue": "queue"}, []),
    "DeleteQueue": ("configure", {"queue": "queue"}, []),
    "ListDeadLetters": ("read", {"queue": "queue"}, []),
    "Redrive": ("redrive", {"queue": "queue", "task": "task_ids"}, []),
    "DeleteDeadLetters": ("purge", {"queue": "queue", "task": "task_ids"}, []),
    "PurgeQueue": ("purge", {"queue": "queue"}, []),
    "GetServerInfo": ("read", {"cluster": True}, []),
    "GetClusterStatus": ("read", {"cluster": True}, []),
    "GetNodeStatus": ("read", {"cluster": True}, []),
    "TransferLeadership": ("operate", {"cluster": True}, []),
    "VerifyState": ("read", {"cluster": True}, [("operate", {"cluster": True}, "if start")]),
    "ReplaceNode": ("operate", {"cluster": True}, []),
    "Backup": ("backup", {"cluster": True}, []),
    "Converse": ("read", {"cluster": True}, []),
}
"""Every method: its verb, its scope, and what it asks besides, written down a second time."""


def described() -> dict[str, MethodDescriptor]:
    """Every method of the public API by its name."""
    found: dict[str, MethodDescriptor] = {}
    for name in ("task", "worker", "queue", "cluster", "conversation"):
        module = importlib.import_module(f"tq.v1.{name}_service_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            found |= service.methods_by_name
    return found


def fields_of(scope: options_pb2.Scope) -> dict[str, object]:
    return {field.name: value for field, value in scope.ListFields()}


def rule_of(method: MethodDescriptor) -> tuple[str, dict[str, object], list[object]]:
    """What a method's options say, in the form of RULES."""
    said = method.GetOptions().Extensions[options_pb2.policy]
    also: list[object] = []
    for each in said.also:
        condition = f"if {each.if_set}" if each.if_set else ""
        condition += f"unless {each.unless_set}" if each.unless_set else ""
        also.append((str(Verb(each.verb)), fields_of(each.scope), condition))
    return str(Verb(said.verb)), fields_of(said.scope), also


def test_every_method_says_what_its_caller_must_be_allowed_to_do_and_where() -> None:
    assert {name: rule_of(method) for name, method in described().items()} == RULES


def test_the_words_of_the_verbs_are_those_of_the_protos() -> None:
    words = [name.removeprefix("VERB_") for name in options_pb2.Verb.keys()]  # noqa: SIM118  # no mapping

    assert [verb.name for verb in Verb] == words[1:]
    assert str(Verb.READ_CONTENT) == "read-content"


VALID = options_pb2.MethodPolicy(
    request_bytes_max=1,
    repeat=options_pb2.MethodPolicy.REPEAT_READ,
    verb=options_pb2.VERB_SUBMIT,
    scope=options_pb2.Scope(queue="tasks.queue"),
)


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        (options_pb2.Scope(), "either `queue`, `task` or both"),
        (options_pb2.Scope(queue="tasks.queue", cluster=True), "either `queue`, `task` or both"),
        (options_pb2.Scope(all_queues=True, cluster=True), "either `queue`, `task` or both"),
        (options_pb2.Scope(queue="tasks.kind"), "has no field tasks.kind"),
        (options_pb2.Scope(queue="request_id.queue"), "has no field request_id.queue"),
        (options_pb2.Scope(queue="tasks.priority"), "tasks.priority of .* is no string"),
        (options_pb2.Scope(task="tasks"), "tasks of .* is no string"),
    ],
)
def test_a_broker_with_a_method_whose_scope_cannot_be_meant_does_not_start(
    scope: options_pb2.Scope, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = options_pb2.MethodPolicy()
    said.CopyFrom(VALID)
    said.scope.CopyFrom(scope)
    monkeypatch.setattr(policy, "_options", lambda _method: said)

    with pytest.raises(StartError, match=why):
        policy_of(task_service_pb2.SubmitRequest, "Submit")


@pytest.mark.parametrize(
    "entry",
    [
        options_pb2.Access(scope=options_pb2.Scope(cluster=True)),
        options_pb2.Access(verb=options_pb2.VERB_READ),
        options_pb2.Access(
            verb=options_pb2.VERB_READ, scope=options_pb2.Scope(cluster=True), if_set="start"
        ),
        options_pb2.Access(
            verb=options_pb2.VERB_READ,
            scope=options_pb2.Scope(cluster=True),
            if_set="request_id",
            unless_set="tasks",
        ),
    ],
    ids=["no verb", "no scope", "a field that is not there", "two conditions"],
)
def test_a_broker_with_an_incomplete_further_rule_does_not_start(
    entry: options_pb2.Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = options_pb2.MethodPolicy(also=[entry])
    said.MergeFrom(VALID)
    monkeypatch.setattr(policy, "_options", lambda _method: said)

    with pytest.raises(StartError, match="Submit"):
        policy_of(task_service_pb2.SubmitRequest, "Submit")


class Hook:
    """Refuses one queue, or a verb about the cluster, and remembers what it was asked."""

    def __init__(self, *, queue: str = "secret", verb: str = "") -> None:
        self.asked: list[tuple[str, str]] = []
        self._queue = queue
        self._verb = verb

    def __call__(self, principal: Principal, verb: Verb, namespace: int, queue: str) -> None:
        assert namespace == DEFAULT_NAMESPACE
        self.asked.append((str(verb), queue))
        if (self._verb or str(verb)) == str(verb) and queue == self._queue:
            raise permission_denied(principal, str(verb), queue)


def put_tasks(node: Node) -> None:
    """Put two tasks into the node's state: "a" in queue "open", "s" in queue "secret"."""
    queue = LoneQueue(store=node.store, audited=False)
    queue.submit(spec(queue="open", task_id="a"), spec(queue="secret", task_id="s"))
    node.store.commit()


tasks_pb, workers_pb, queues_pb = task_service_pb2, worker_service_pb2, queue_service_pb2
cluster_pb = cluster_service_pb2
LOCAL = tasks_pb.READ_LEVEL_LOCAL
Ask = Callable[[Stubs], Awaitable[Any]]
W = PATIENCE_S


def submit_of(*queues: str) -> tasks_pb.SubmitRequest:
    return tasks_pb.SubmitRequest(tasks=[task_pb2.TaskSpec(queue=name) for name in queues])


def heartbeat_of(*task_ids: str) -> workers_pb.HeartbeatRequest:
    leases = [workers_pb.HeldLease(task_id=task_id, token=1) for task_id in task_ids]
    return workers_pb.HeartbeatRequest(leases=leases)


def report_of(*task_ids: str, submits: str = "") -> workers_pb.ReportRequest:
    request = workers_pb.ReportRequest()
    for task_id in task_ids:
        request.reports.add(task_id=task_id, token=1).complete.result = b"r"
    if submits:
        request.reports[0].complete.submit.add(queue=submits)
    return request


DENIED: dict[str, tuple[Ask, list[tuple[str, str]]]] = {
    "the queue of a submitted task": (
        lambda to: to.tasks.Submit(submit_of("open", "secret"), timeout=W),
        [("submit", "open"), ("submit", "secret")],
    ),
    "one of the queues of a claim": (
        lambda to: to.worker.Claim(workers_pb.ClaimRequest(queues=["open", "secret"]), timeout=W),
        [("work", "open"), ("work", "secret")],
    ),
    "the queue that a request names": (
        lambda to: to.queues.PurgeQueue(queues_pb.PurgeQueueRequest(queue="secret"), timeout=W),
        [("purge", "secret")],
    ),
    "the task's own queue: get": (
        lambda to: to.tasks.GetTask(tasks_pb.GetTaskRequest(task_id="s"), timeout=W),
        [("read", "secret")],
    ),
    "the task's own queue: get from the disk": (
        lambda to: to.tasks.GetTask(
            tasks_pb.GetTaskRequest(task_id="s", read_level=LOCAL), timeout=W
        ),
        [("read", "secret")],
    ),
    "the task's own queue: wait": (
        lambda to: to.tasks.WaitTask(tasks_pb.WaitTaskRequest(task_id="s"), timeout=W),
        [("read", "secret")],
    ),
    "the task's own queue: cancel": (
        lambda to: to.tasks.CancelTask(tasks_pb.CancelTaskRequest(task_id="s"), timeout=W),
        [("cancel", "secret")],
    ),
    "the tasks' own queues: heartbeat": (
        lambda to: to.worker.Heartbeat(heartbeat_of("a", "s"), timeout=W),
        [("work", "open"), ("work", "secret")],
    ),
    "the tasks' own queues: report": (
        lambda to: to.worker.Report(report_of("a", "s"), timeout=W),
        [("work", "open"), ("work", "secret")],
    ),
    "the tasks' own queues: redrive": (
        lambda to: to.queues.Redrive(queues_pb.RedriveRequest(task_ids=["s"]), timeout=W),
        [("redrive", "secret")],
    ),
    "the queue of a task that a completion submits": (
        lambda to: to.worker.Report(report_of("a", submits="secret"), timeout=W),
        [("work", "open"), ("submit", "secret")],
    ),
}


@pytest.mark.parametrize("what", DENIED)
async def test_a_call_is_refused_if_the_hook_refuses(what: str) -> None:
    ask, asked = DENIED[what]
    hook = Hook()
    async with cluster_of("n1", "n2", authorize=hook) as cluster:
        for node in cluster.nodes.values():
            put_tasks(node)
        cluster.elect("n1", 1)
        for node in cluster.nodes.values():
            hook.asked.clear()
            async with stubs_of(node) as stubs:
                with fails() as failure:
                    await ask(stubs)
            assert failure.code is grpc.StatusCode.PERMISSION_DENIED
            assert failure.reason == "PERMISSION_DENIED"
            assert "secret" in failure.message
            assert hook.asked == asked
        assert cluster["n1"].leader.asked == []


ALLOWED: dict[str, tuple[Ask, list[tuple[str, str]]]] = {
    "two tasks of one queue ask once": (
        lambda to: to.tasks.Submit(submit_of("open", "open"), timeout=W),
        [("submit", "open")],
    ),
    "content is asked for besides": (
        lambda to: to.tasks.GetTask(tasks_pb.GetTaskRequest(task_id="a"), timeout=W),
        [("read", "open"), ("read-content", "open")],
    ),
    "no content": (
        lambda to: to.tasks.GetTask(
            tasks_pb.GetTaskRequest(task_id="a", omit_payload=True), timeout=W
        ),
        [("read", "open")],
    ),
    "a completion that submits": (
        lambda to: to.worker.Report(report_of("a", submits="b"), timeout=W),
        [("work", "open"), ("submit", "b")],
    ),
    "a completion that submits nothing": (
        lambda to: to.worker.Report(report_of("a"), timeout=W),
        [("work", "open")],
    ),
    "a task that does not exist": (
        lambda to: to.worker.Report(report_of("gone"), timeout=W),
        [],
    ),
    "all queues, by an empty name": (
        lambda to: to.tasks.ListTasks(tasks_pb.ListTasksRequest(), timeout=W),
        [("read", "")],
    ),
    "all queues": (
        lambda to: to.queues.ListQueues(queues_pb.ListQueuesRequest(), timeout=W),
        [("read", "")],
    ),
    "tasks in place of a queue": (
        lambda to: to.queues.Redrive(queues_pb.RedriveRequest(task_ids=["a"]), timeout=W),
        [("redrive", "open")],
    ),
    "a queue in place of tasks": (
        lambda to: to.queues.Redrive(queues_pb.RedriveRequest(queue="q"), timeout=W),
        [("redrive", "q")],
    ),
    "the cluster": (
        lambda to: to.cluster.GetServerInfo(cluster_pb.GetServerInfoRequest(), timeout=W),
        [("read", "")],
    ),
}


@pytest.mark.parametrize("what", ALLOWED)
async def test_the_hook_is_asked_about_what_the_request_names_and_no_more(what: str) -> None:
    ask, asked = ALLOWED[what]
    hook = Hook()
    async with cluster_of("n1", authorize=hook) as cluster, stubs_of(cluster["n1"]) as stubs:
        put_tasks(cluster["n1"])
        cluster.elect("n1", 1)
        await ask(stubs)

    assert hook.asked == asked


async def test_beginning_a_pass_over_the_state_is_an_operation_and_looking_is_not() -> None:
    hook = Hook(queue="", verb="operate")
    async with cluster_of("n1", authorize=hook) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)
        with fails() as failure:
            await stubs.cluster.VerifyState(cluster_pb.VerifyStateRequest(start=True), timeout=W)

    assert failure.reason == "PERMISSION_DENIED"
    assert hook.asked == [("read", ""), ("operate", "")]


async def test_a_stream_is_refused_before_its_first_message() -> None:
    hook = Hook(queue="", verb="backup")
    async with cluster_of("n1", authorize=hook) as cluster, stubs_of(cluster["n1"]) as stubs:
        with fails() as failure:
            async for _ in stubs.cluster.Backup(cluster_pb.BackupRequest(), timeout=W):
                raise AssertionError("the stream has begun")

    assert failure.reason == "PERMISSION_DENIED"


async def test_names_are_gathered_with_pauses_and_not_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hook = Hook()
    monkeypatch.setattr(paths, "VALUES_MAX", 3)
    async with cluster_of("n1", authorize=hook) as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster["n1"].cluster_version = CLUSTER_VERSION  # no field is looked for
        cluster.elect("n1", 1)
        await stubs.tasks.Submit(submit_of("a", "b", "c"), timeout=W)
        with fails() as failure:
            await stubs.tasks.Submit(submit_of("a", "b", "c", "d"), timeout=W)

    assert failure.reason == "INVALID_ARGUMENT"
    assert failure.metadata == {"field": "tasks.queue", "limit": "3", "actual": "over 3"}


async def test_other_work_goes_on_while_many_names_are_gathered() -> None:
    path = Path.of(submit_of().DESCRIPTOR, "tasks.queue")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    names = [name async for name in paths.in_steps(path, ["q"] * 10 * paths.STEP_VALUES)]
    counting.cancel()

    assert len(names) == 10 * paths.STEP_VALUES
    assert turns >= 10


async def test_without_a_hook_nothing_is_looked_up() -> None:
    async with cluster_of("n1") as cluster, stubs_of(cluster["n1"]) as stubs:
        cluster.elect("n1", 1)

        def read(*_arguments: object) -> Any:  # noqa: ANN401  # never returns
            raise AssertionError("a task was looked up")

        cluster["n1"].leader.read = read  # type: ignore[assignment, method-assign]  # is never called
        await stubs.worker.Report(report_of("a"), timeout=W)
        await stubs.worker.Heartbeat(heartbeat_of("a"), timeout=W)

        assert len(cluster["n1"].leader.asked) == 2


@pytest.mark.parametrize("asked", ["n1", "n2"], ids=["at the leader", "forwarded"])
@pytest.mark.parametrize("level", [tasks_pb.READ_LEVEL_LINEARIZABLE, LOCAL])
async def test_the_queue_of_a_task_is_that_in_the_callers_namespace(
    asked: str, level: tasks_pb.ReadLevel.ValueType
) -> None:
    heard: list[tuple[int, str]] = []

    def hook(_principal: Principal, _verb: Verb, namespace: int, queue: str) -> None:
        heard.append((namespace, queue))

    shop = Namespaces({"shop": 7})
    async with cluster_of("n1", "n2", namespaces=shop, authorize=hook) as cluster:
        for node in cluster.nodes.values():
            LoneQueue(store=node.store).submit(spec(queue="open", task_id="a"))
            LoneQueue(store=node.store, namespace=7).submit(spec(queue="till", task_id="a"))
            node.store.commit()
        cluster.elect("n1", 1)
        request = tasks_pb.GetTaskRequest(task_id="a", omit_payload=True, read_level=level)
        async with stubs_of(cluster[asked]) as stubs:
            await stubs.tasks.GetTask(request, timeout=W)
            await stubs.tasks.GetTask(request, timeout=W, metadata=((Header.NAMESPACE, "shop"),))

    assert heard == [(DEFAULT_NAMESPACE, "open"), (7, "till")]
