"""A fake broker in this process that a test controls: answers, refuses, loses replies, hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn, TypeAlias

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

from tests.patience import PATIENCE_S
from tq.v1 import (
    cluster_service_pb2,
    queue_service_pb2,
    task_service_pb2,
    worker_service_pb2,
)
from tq.v1.conversation_service_pb2 import (
    ConverseAnswer,
    ConverseCall,
    ConverseRequest,
    ConverseResponse,
)
from tq.v1.task_pb2 import TaskState
from tq_client import AsyncClient, Reason

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


@dataclass(frozen=True)
class Call:
    """A call that arrived."""

    method: str
    request: Any
    metadata: Mapping[str, str]


Step = Callable[["FakeBroker", Call, Context], Awaitable[Message]]


@dataclass
class FakeBroker:
    """Handles each call with the next of ``steps``; answers it if there are no more."""

    steps: list[Step] = field(default_factory=list)
    leader: str = ""
    term: int = 1
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, Callable[[Any], Message]] = field(default_factory=dict)
    submits: dict[str, task_service_pb2.SubmitResponse] = field(default_factory=dict)
    """The answer to each request_id."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by every call that arrives."""
    address: str = ""
    converses: ClassVar[bool] = True
    """Whether it takes conversations; older brokers do not."""
    full: bool = False
    """Whether it has no room for another."""
    refused_after_s: float = 0.0
    mute: bool = False
    """Whether no answer in a conversation is sent, which goes on."""
    conversations: int = 0
    """How many were begun."""
    in_conversations: int = 0
    """How many calls came in them."""
    streams: set[asyncio.Task[None]] = field(default_factory=set)
    """Those that go on."""

    def __post_init__(self) -> None:
        self.answers.setdefault("Submit", self._submit)
        self.answers.setdefault("SubmitTogether", self._submit_together)

    def of(self, method: str) -> list[Any]:
        """List the requests of one method, as they arrived."""
        return [call.request for call in self.calls if call.method == method]

    def who_leads(self) -> tuple[tuple[str, str], ...]:
        return ("tq-leader", self.leader), ("tq-term", str(self.term))

    async def answer(self, call: Call, context: Context) -> Message:
        """Answer as a broker that knows who leads."""
        context.set_trailing_metadata(self.who_leads())
        make = self.answers.get(call.method)
        return make(call.request) if make else _reply_type(call.request)()

    def _submit(self, request: task_service_pb2.SubmitRequest) -> Message:
        if request.request_id not in self.submits:
            response = task_service_pb2.SubmitResponse()
            for position, spec in enumerate(request.tasks):
                result = response.results.add()
                if spec.priority > 255:
                    result.error.reason = 1  # type: ignore[assignment]  # INVALID_ARGUMENT
                    result.error.field = "priority"
                    result.error.message = f"{spec.priority} is above 255"
                else:
                    result.task.task_id = spec.task_id or f"{request.request_id}-{position}"
                    result.task.state = TaskState.TASK_STATE_PENDING
            self.submits[request.request_id] = response
        return self.submits[request.request_id]

    def _submit_together(self, request: task_service_pb2.SubmitTogetherRequest) -> Message:
        response = task_service_pb2.SubmitTogetherResponse()
        for position, spec in enumerate(request.tasks):
            task = response.tasks.add(task_id=spec.task_id or f"{request.request_id}-{position}")
            waits = bool(spec.depends_on)
            task.state = TaskState.TASK_STATE_BLOCKED if waits else TaskState.TASK_STATE_PENDING
        return response

    async def handle(self, call: Call, context: Context) -> Message:
        self.calls.append(call)
        self.arrived.set()
        if self.steps:
            return await self.steps.pop(0)(self, call, context)
        return await self.answer(call, context)


def refuse(
    reason: Reason,
    code: grpc.StatusCode,
    *,
    retry_after_s: float | None = None,
    **metadata: str,
) -> Step:
    """Refuse the call with a reason, as the service does."""

    async def step(broker: FakeBroker, call: Call, context: Context) -> Message:
        del call
        status = status_pb2.Status(code=code.value[0], message=f"refused: {reason}")
        details: list[Message] = [
            error_details_pb2.ErrorInfo(domain="tq", reason=str(reason), metadata=metadata)
        ]
        if retry_after_s is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(int(retry_after_s * 1_000))
            details.append(retry)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        refused = rpc_status.to_status(status)
        await context.abort(
            refused.code,
            refused.details,
            trailing_metadata=(*refused.trailing_metadata, *broker.who_leads()),
        )
        raise AssertionError("abort raises")

    return step


def redirect(leader: str) -> Step:
    """Refuse as a follower if the call asks it not to forward."""
    return refuse(Reason.NOT_LEADER, grpc.StatusCode.FAILED_PRECONDITION, leader=leader)


async def lose_reply(broker: FakeBroker, call: Call, context: Context) -> Message:
    """Apply the call, then break it off without a status of the service."""
    await broker.answer(call, context)
    await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")
    raise AssertionError("abort raises")


async def break_off(broker: FakeBroker, call: Call, context: Context) -> Message:
    """Do nothing and break the call off: to the caller the same as a lost reply."""
    del broker, call
    await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")
    raise AssertionError("abort raises")


async def answer(broker: FakeBroker, call: Call, context: Context) -> Message:
    """Answer normally."""
    return await broker.answer(call, context)


async def hang(broker: FakeBroker, call: Call, context: Context) -> Message:
    """Never answer."""
    del broker, call, context
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


def hold_until(release: asyncio.Event) -> Step:
    """Answer once ``release`` is set."""

    async def step(broker: FakeBroker, call: Call, context: Context) -> Message:
        await release.wait()
        return await broker.answer(call, context)

    return step


async def until_reached(client: AsyncClient, broker: FakeBroker) -> None:
    """Make calls until one arrives at ``broker``: a client connects in the background."""
    before = len(broker.calls)
    async with asyncio.timeout(PATIENCE_S):
        while len(broker.calls) == before:
            await client.cluster_status()


@asynccontextmanager
async def serving(*brokers: FakeBroker, at: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serve the brokers on loopback; yields their addresses, separated by commas."""
    host = at.rpartition(":")[0]
    async with AsyncExitStack() as stack:
        for broker in brokers:
            server = aio.server()
            server.add_generic_rpc_handlers((_Handlers(broker),))
            broker.address = f"{host}:{server.add_insecure_port(at)}"
            await server.start()
            stack.push_async_callback(server.stop, None)
        yield ",".join(broker.address for broker in brokers)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = details.method.rsplit("/", 1)[1]
        if method == "Converse":
            return self._conversation() if self._broker.converses else None
        metadata = {key: str(value) for key, value in details.invocation_metadata or ()}

        async def handle(request: Message, context: Context) -> Message:
            call = Call(method, request, metadata)
            return await self._broker.handle(call, context)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=_request_type(method).FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )

    def _conversation(self) -> grpc.RpcMethodHandler[Any, Any]:
        async def converse(requests: AsyncIterator[ConverseRequest], context: Context) -> None:
            if self._broker.full:
                await asyncio.sleep(self._broker.refused_after_s)
                await abort(context, Reason.OVERLOADED, limit_name="conversations")
            self._broker.conversations += 1
            here = asyncio.current_task()
            assert here is not None
            self._broker.streams.add(here)
            metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
            running: dict[int, asyncio.Task[None]] = {}
            turn = asyncio.Lock()

            async def answer_in_turn(said: ConverseCall) -> None:
                answer = await _answer_in(self._broker, said, metadata)
                if self._broker.mute:
                    return
                async with turn:
                    await context.write(ConverseResponse(answers=[answer]))

            try:
                async for message in requests:
                    for said in message.calls:
                        if said.WhichOneof("request") == "cancel":
                            running[said.call_id].cancel()
                        else:
                            self._broker.in_conversations += 1
                            answering = asyncio.create_task(answer_in_turn(said))
                            running[said.call_id] = answering
            except asyncio.CancelledError:
                async with turn:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")
            finally:
                self._broker.streams.discard(here)
                for each in running.values():
                    each.cancel()

        return grpc.stream_stream_rpc_method_handler(
            converse,
            request_deserializer=ConverseRequest.FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )


async def abort(context: Context, reason: Reason, **metadata: str) -> NoReturn:
    """End a stream with a reason, as the service does."""
    status = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="full")
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(domain="tq", reason=str(reason), metadata=metadata))
    status.details.append(packed)
    refused = rpc_status.to_status(status)
    await context.abort(refused.code, refused.details, trailing_metadata=refused.trailing_metadata)
    raise AssertionError("abort raises")


class _AbortedError(Exception):
    """A call in a conversation was aborted."""


class _Inside:
    """What a step sees of gRPC's context for a call in a conversation."""

    def __init__(self, timeout_s: float) -> None:
        self._until_s = asyncio.get_running_loop().time() + timeout_s
        self.trailing: dict[str, Any] = {}
        self.code = grpc.StatusCode.OK
        self.details = ""

    def time_remaining(self) -> float:
        return self._until_s - asyncio.get_running_loop().time()

    def set_trailing_metadata(self, trailing: Iterable[tuple[str, Any]]) -> None:
        self.trailing = dict(trailing)

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, Any]] = (),
    ) -> NoReturn:
        self.trailing |= dict(trailing_metadata)
        self.code, self.details = code, details
        raise _AbortedError


async def _answer_in(
    broker: FakeBroker, said: ConverseCall, metadata: Mapping[str, str]
) -> ConverseAnswer:
    kind = said.WhichOneof("request")
    assert kind is not None
    assert kind != "cancel"
    own = {"traceparent": said.traceparent, "tq-min-term": str(said.min_term or "")}
    request = getattr(said, kind)
    call = Call(
        request.DESCRIPTOR.name.removesuffix("Request"),
        request,
        {**metadata, **{key: value for key, value in own.items() if value}},
    )
    inside: Any = _Inside(said.timeout.ToMilliseconds() / 1000)
    answer = ConverseAnswer(call_id=said.call_id)
    try:
        getattr(answer, kind).CopyFrom(await broker.handle(call, inside))
    except _AbortedError:
        answer.failure.code = inside.code.value[0]
        answer.failure.message = inside.details
        answer.failure.details = inside.trailing.get("grpc-status-details-bin", b"")
    answer.leader = inside.trailing.get("tq-leader", "")
    answer.term = min(int(inside.trailing.get("tq-term", 0)), 2**64 - 1)
    return answer


_MODULES = (task_service_pb2, worker_service_pb2, queue_service_pb2, cluster_service_pb2)


def _request_type(method: str) -> type[Message]:
    return _message_type(f"{method}Request")


def _reply_type(request: Message) -> type[Message]:
    return _message_type(request.DESCRIPTOR.name.removesuffix("Request") + "Response")


def _message_type(name: str) -> type[Message]:
    for module in _MODULES:
        if hasattr(module, name):
            found: type[Message] = getattr(module, name)
            return found
    raise LookupError(name)
