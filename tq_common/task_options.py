"""What an option of a task is: its name, kind and bounds, as `proto/tq/v1/task.proto` states them.

`tq/v1/task_options.py`, which scripts/generate_options.py makes, lists them. Client, admin tool and
broker read that list.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as made
from typing import Any, Protocol, TypeVar

Fault = TypeVar("Fault")
_Fault_co = TypeVar("_Fault_co", covariant=True)


class Kind(enum.Enum):
    """The type of an option's value."""

    NUMBER = enum.auto()
    """A whole number."""
    FLAG = enum.auto()
    TEXT = enum.auto()
    BYTES = enum.auto()
    SPAN = enum.auto()
    """A length of time."""
    INSTANT = enum.auto()
    CHOICE = enum.auto()
    """One of several words."""
    TEXTS = enum.auto()
    """Several texts."""
    MAP = enum.auto()
    """Texts by name."""
    OTHER = enum.auto()
    """A message with code of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOption:
    """One option; its bounds are for a value that is set."""

    field: str
    """The field of a TaskSpec."""
    name: str
    """The option in Python."""
    kind: Kind
    doc: str = ""
    """What it does and what it takes, in one sentence."""
    default: str = ""
    """In words; empty if it is the type's."""
    least: int | None = None
    """The least number, or ms of a length of time; None if there is no bound. So below."""
    most: int | None = None
    """The largest number, or ms of a length of time or ahead of now; the bytes of a text, the
    characters of a map's value."""
    items_max: int | None = None
    key_max: int | None = None
    """The characters of a map's key."""
    rule: str = ""
    """The kind of name in `tq_common.names` that a text has to be: TASK_ID."""
    choices: Mapping[str, int] = made(default_factory=dict)
    """The numbers of words, without that of UNSPECIFIED."""
    flag: str = ""
    """Without dashes; empty if the admin tool has none."""
    aliases: tuple[str, ...] = ()
    """Its names in other task queues."""
    submit_only: bool = False
    """A submitted task does not show it."""
    by_hand: bool = False
    """The client's option has another form, and code of its own."""


class Checks(Protocol[_Fault_co]):
    """Checks of one value each; they return the fault, or None."""

    def number(self, option: TaskOption, value: int) -> _Fault_co | None: ...
    def text(self, option: TaskOption, value: str | bytes) -> _Fault_co | None: ...
    def span(self, option: TaskOption, value: Any) -> _Fault_co | None: ...  # noqa: ANN401  # a Duration
    def instant(self, option: TaskOption, value: Any, now_ms: int) -> _Fault_co | None: ...  # noqa: ANN401  # a Timestamp
    def choice(self, option: TaskOption, value: int) -> _Fault_co | None: ...
    def texts(self, option: TaskOption, value: Any) -> _Fault_co | None: ...  # noqa: ANN401  # of strings
    def map(self, option: TaskOption, value: Mapping[str, str]) -> _Fault_co | None: ...
