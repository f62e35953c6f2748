"""What went wrong, in one line, and the next thing to try, in another."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

# How gRPC begins what it says of a connection that it could not make; the cause follows.
NEVER_CONNECTED = re.compile(
    r"failed to connect to all addresses; last error: \w+: \S+: "
    r"(Failed to connect to remote host: )?"
)


class ExitCode(enum.IntEnum):
    """What a script can tell apart; `tq-admin --help` documents them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3


class Failure(Exception):  # noqa: N818 - not a fault of the program: what a person is told
    """Ends a command: what failed, what to try next, and the process's exit code."""

    def __init__(
        self,
        message: str,
        advice: str = "",
        code: ExitCode = ExitCode.FAILED,
        *,
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.code = code
        # ErrorInfo.reason, where a broker gave one.
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A failed call as the broker describes it (proto/tq/v1/errors.proto)."""

    status: grpc.StatusCode
    message: str
    # Empty where no broker answered: then the status comes from the connection.
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    # False when the connection was never made, and so the call never sent.
    sent: bool = True

    @property
    def unanswered(self) -> bool:
        """True when another address, or the same one later, may answer."""
        if self.reason:
            return self.reason in {"NO_LEADER", "NOT_LEADER", "OUTCOME_UNKNOWN"}
        return self.status in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


ADVICE = {
    "DISK_PRESSURE": "Free space in the brokers' data directories; completions are still taken.",
    "INTERNAL": "Nothing was changed. The leader's log names the cause.",
    "NO_LEADER": "See who is missing with: tq-admin cluster-status",
    "NOT_LEADER": "See who leads with: tq-admin cluster-status",
    "OUTCOME_UNKNOWN": "It may have been done. Look before you repeat it: tq-admin status or list",
    "OVERLOADED": "Nothing was changed. Try again shortly.",
    "PERMISSION_DENIED": "Ask the cluster's operator for the right to do this.",
    "QUEUE_PAUSED": "Resume the queue with: tq-admin queues resume QUEUE",
    "QUOTA_EXCEEDED": "Wait for the queue to drain, or have its limit raised.",
    "REQUEST_ID_EXPIRED": "Too long ago to repeat safely: look the tasks up with tq-admin status",
    "REQUEST_IDS_EXHAUSTED": "Nothing was changed. Try again in a minute.",
    "TASK_EXISTS": "Look at it with tq-admin status, or choose another --id.",
    "UNAUTHENTICATED": "The cluster wants credentials that this command has not sent.",
}


def read_error(error: grpc.RpcError) -> Refusal:
    """What a failed call says, whoever said it."""
    call = cast("grpc.Call", error)  # a unary call's error is the call itself
    status = rpc_status.from_call(call)
    info = ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Is(ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
    message = call.details() or call.code().name.lower().replace("_", " ")
    unconnected = NEVER_CONNECTED.match(message)
    return Refusal(
        status=call.code(),
        message=message[unconnected.end() :] if unconnected else message,
        reason=info.reason,
        metadata=dict(info.metadata),
        sent=unconnected is None,
    )


def nobody(what: str, refusals: Mapping[str, Refusal], advice: str = "") -> Failure:
    """The failure of a call that no address answered."""
    addresses: dict[str, list[str]] = {}
    for address, refusal in refusals.items():
        addresses.setdefault(refusal.message, []).append(address)
    causes = "; ".join(f"{', '.join(those)}: {cause}" for cause, those in addresses.items())
    advice = advice or "Start the brokers (tq-cluster dev), or name theirs: --address HOST:PORT"
    return Failure(f"{what}: no broker answered ({causes})", advice, ExitCode.UNREACHABLE)


def refused(what: str, refusal: Refusal) -> Failure:
    """The failure of a call that some broker answered, if only to say that there is no leader."""
    reason = refusal.reason or refusal.status.name
    facts = ", ".join(f"{key} {value}" for key, value in sorted(refusal.metadata.items()))
    message = f"{what}: {reason}: {refusal.message}" + (f" ({facts})" if facts else "")
    advice = ADVICE.get(reason, "")
    if refusal.status is grpc.StatusCode.UNIMPLEMENTED:
        advice = "This broker is of another version; compare with: tq-admin cluster-status"
    code = ExitCode.UNREACHABLE if refusal.unanswered else ExitCode.FAILED
    return Failure(message, advice, code, reason=refusal.reason)
