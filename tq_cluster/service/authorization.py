"""The one place that decides who calls and what they may do. Today: anybody, everything."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

from tq_cluster.core.model.types import Principal


class Verb(enum.Enum):
    """What a caller asks to do."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    WORK = "work"
    CONFIGURE = "configure"
    REDRIVE = "redrive"
    DELETE = "delete"
    PURGE = "purge"
    OPERATE = "operate"


Authenticate = Callable[[Mapping[str, str]], Principal]
"""Takes a call's metadata and returns the caller's name; raises CallError for wrong credentials."""

Authorize = Callable[[Principal, Verb, int, str], None]
"""Takes principal, verb, namespace and queue ("" for none or all); raises CallError to refuse."""


def authenticate(_metadata: Mapping[str, str]) -> Principal:
    """Treat every caller as anonymous."""
    return Principal("")


def authorize(_principal: Principal, _verb: Verb, _namespace: int, _queue: str) -> None:
    """Allow everything."""
