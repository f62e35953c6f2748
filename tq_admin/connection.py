"""One cluster by several addresses: a call is made to the first that answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from tq_admin.failures import Failure, Refusal, nobody, read_error, refused

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
# Picks the call from the channel: `lambda channel: TaskServiceStub(channel).Submit`.
Method: TypeAlias = Callable[[grpc.Channel], "grpc.UnaryUnaryMultiCallable[Request, Response]"]

# A node that is down refuses at once; one that is cut off must not hold up the next address.
CONNECT_MS = 1_000
PAUSE_S = 0.2
# Nothing listens at any address: waiting longer for a cluster that is not there helps nobody.
NOBODY_S = 2.0

CHANNEL_OPTIONS = (
    ("grpc.enable_retries", 0),  # retried here, where the request id and its age are known
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_receive_message_length", -1),  # the brokers bound their replies
    ("grpc.max_send_message_length", -1),  # the brokers bound what they take, and say so
    ("grpc.min_reconnect_backoff_ms", CONNECT_MS),  # this is also the time to connect
)


class Cluster:
    """Calls the cluster. Every call is safe to repeat: a read, or under one request id."""

    def __init__(self, addresses: tuple[str, ...], *, timeout_s: float) -> None:
        self.addresses = addresses
        self.timeout_s = timeout_s
        self._channels: dict[str, grpc.Channel] = {}

    def close(self) -> None:
        """Close every connection."""
        for channel in self._channels.values():
            channel.close()

    def call(
        self,
        what: str,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
    ) -> Response:
        """The first answer of any address.

        Raises:
            Failure: a broker refused, or none answered in time. `what` begins its message.
        """
        started = time.monotonic()
        deadline = started + (self.timeout_s if timeout_s is None else timeout_s)
        failures: dict[str, Refusal] = {}
        while True:
            for position, address in enumerate(self.addresses):
                # Each address gets its share: one that waits for a leader in vain, cut off from
                # the others, must leave time to ask them.
                share_s = (deadline - time.monotonic()) / (len(self.addresses) - position)
                _set_retry_age(request, time.monotonic() - started, first=not failures)
                answer = self.ask(address, method, request, timeout_s=max(0.5, share_s))
                if not isinstance(answer, Refusal):
                    return answer
                if not answer.unanswered:
                    raise refused(what, answer)
                failures[address] = answer
            silent = all(not failure.reason for failure in failures.values())
            give_up = min(deadline, started + NOBODY_S) if silent else deadline
            if time.monotonic() + PAUSE_S >= give_up:
                raise _unanswered(what, request, failures)
            time.sleep(PAUSE_S)

    def ask(
        self,
        address: str,
        method: Method[Request, Response],
        request: Request,
        *,
        timeout_s: float,
    ) -> Response | Refusal:
        """What one address answers, asked once."""
        try:
            return method(self._channel(address))(request, timeout=timeout_s)
        except grpc.RpcError as error:
            return read_error(error)

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        return self._channels[address]


def _set_retry_age(request: Message, age_s: float, *, first: bool) -> None:
    """Tell how old the request id is, wherever the request carries one."""
    if not first and "retry_age" in request.DESCRIPTOR.fields_by_name:
        request.retry_age.FromMilliseconds(int(age_s * 1_000))  # type: ignore[attr-defined] # as looked up


def _unanswered(what: str, request: Message, failures: dict[str, Refusal]) -> Failure:
    answered = [failure for failure in failures.values() if failure.reason]
    if answered:
        unknown = [failure for failure in answered if failure.reason == "OUTCOME_UNKNOWN"]
        return refused(what, (unknown or answered)[0])
    advice = ""
    if "request_id" in request.DESCRIPTOR.fields_by_name and any(
        failure.sent for failure in failures.values()
    ):
        advice = "It may have been done: look with tq-admin status or list before you repeat it."
    return nobody(what, failures, advice)
