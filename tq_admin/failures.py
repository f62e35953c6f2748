"""Failures: what went wrong, in one line, and the next thing to try, in another."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tq_client.errors import OutcomeUnknownError, Reason, TqError, UnavailableError


class ExitCode(enum.IntEnum):
    """The exit codes, for scripts; `tq-admin --help` documents them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3


class Failure(Exception):  # noqa: N818 - not a fault of the program: a message for a person
    """Ends a command: what failed, what to try next, and the process's exit code."""

    def __init__(self, message: str, advice: str = "", code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.code = code


ADVICE = {
    Reason.CYCLE: "Nothing was created. Leave one of these dependencies out.",
    Reason.DISK_PRESSURE: "Free disk space on the brokers; completions are still taken.",
    Reason.HAS_DEPENDENTS: "See where the other task stands with: tq-admin status TASK_ID",
    Reason.INVALID_ARGUMENT: "See what it takes with --help.",
    Reason.INTERNAL: "Nothing was changed. The leader's log names the cause.",
    Reason.NO_LEADER: "See who is missing with: tq-admin cluster-status",
    Reason.NO_STATE: "See what it waits for with: tq-admin cluster-status",
    Reason.NOT_FOUND: "See what there is with: tq-admin list, tq-admin queues list",
    Reason.NOT_LEADER: "See who leads with: tq-admin cluster-status",
    Reason.NOT_REPLACEABLE: "Nothing was changed. See who is there with: tq-admin cluster-status",
    Reason.OUTCOME_UNKNOWN: (
        "It may have been done: look before you repeat it (status, list, cluster-status)."
    ),
    Reason.OVERLOADED: "Nothing was changed. Try again shortly.",
    Reason.PAYLOAD_TOO_LARGE: "Keep large things elsewhere, and submit where they are.",
    Reason.PERMISSION_DENIED: "Ask the cluster's operator for the right to do this.",
    Reason.QUEUE_IN_USE: "See what is in it with: tq-admin list --queue QUEUE",
    Reason.QUEUE_PAUSED: "Resume the queue with: tq-admin queues resume QUEUE",
    Reason.QUOTA_EXCEEDED: "Wait for the queue to drain, or have its limit raised.",
    Reason.REQUEST_IDS_EXHAUSTED: "Nothing was changed. Try again in a minute.",
    Reason.SETTINGS_CHANGED: "Look at them with tq-admin queues show, then do it again.",
    Reason.TASK_EXISTS: "Look at it with tq-admin status, or choose another --id.",
    Reason.UNAUTHENTICATED: "The cluster wants credentials that this command has not sent.",
    Reason.UNSUPPORTED: (
        "The broker is of another version; compare with: tq-admin cluster-status --wide"
    ),
}


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Turn the client's errors into failures that begin with what was being done."""
    try:
        yield
    except TqError as error:
        raise refused(what, error) from error


def refused(what: str, error: TqError) -> Failure:
    """Make the failure for an error of the client."""
    named = {"field": error.field} if error.field else {}
    facts = ", ".join(
        f"{key} {value}" for key, value in sorted({**error.metadata, **named}.items())
    )
    message = f"{what}: {error}" + (f" ({facts})" if facts else "")
    unanswered = isinstance(error, OutcomeUnknownError | UnavailableError)
    code = ExitCode.UNREACHABLE if unanswered else ExitCode.FAILED
    return Failure(message, ADVICE.get(error.reason, ""), code)


def nobody(causes: Mapping[str, str]) -> Failure:
    """Make the failure if no address answered; `causes` has the cause of each."""
    addresses: dict[str, list[str]] = {}
    for address, cause in causes.items():
        addresses.setdefault(cause, []).append(address)
    reasons = "; ".join(f"{', '.join(those)}: {cause}" for cause, those in addresses.items())
    return Failure(
        f"no broker answered ({reasons})",
        "Start the brokers (tq-cluster dev), or name theirs: --address HOST:PORT",
        ExitCode.UNREACHABLE,
    )
