"""What a setting is called in each place, and what is said of mistakes."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tq_common.visible import visible

MISTAKES_MAX: Final = 100
"""How many mistakes are listed at most; the rest is counted."""
FIELD_CHARS_MAX: Final = 100
PROBLEM_CHARS_MAX: Final = 1_000
"""Of a field's name, and of what is wrong with it, in a message."""

Problem = tuple[str, str]
"""A field by its path, such as ``log.level``, and what is wrong with it and what would be right."""
FromText = Callable[[str], tuple[object, Sequence[Problem]]]
"""Turns the text of a variable or a flag into the value that a file would have, with the problems
of the text itself. The model checks the value.
"""


class Kind(enum.Enum):
    """How a flag is given."""

    VALUE = enum.auto()
    """``--name VALUE``; the last one counts."""
    LIST = enum.auto()
    """``--name VALUE``, as often as needed; together they are one text, separated by commas."""
    SWITCH = enum.auto()
    """``--name`` for true, ``--no-name`` for false."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a file, and its overrides."""

    field: tuple[str, ...]
    """Its path in the file."""
    environment: str
    help: str
    own_flag: str = ""
    """The flag, if it is not made of the path."""
    metavar: str | None = None
    """The placeholder for the value in the help; None: its type."""
    kind: Kind = Kind.VALUE
    empty_is_absent: bool = False
    """Whether an empty text in the environment or on the command line overrides nothing."""
    default: str = ""
    """The text of its default, if the model takes it from here."""
    from_text: FromText | None = None
    """None: the model takes the text itself."""

    @property
    def flag(self) -> str:
        """The option of a command, which overrides the environment."""
        return self.own_flag or f"--{self.parameter.replace('_', '-')}"

    @property
    def parameter(self) -> str:
        """The path in one word."""
        return "_".join(self.field)

    @property
    def name(self) -> str:
        """The path as it is written in messages and documents, such as ``log.level``."""
        return ".".join(self.field)


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: the field, where its value came from, and what would be right."""

    field: str
    source: str
    problem: str

    def for_people(self) -> Mistake:
        """Return it with a name on one line, and no text longer than a message may be."""
        return Mistake(
            visible(_shortened(self.field, FIELD_CHARS_MAX)),
            self.source,
            _shortened(self.problem, PROBLEM_CHARS_MAX),
        )

    def __str__(self) -> str:
        return f"{self.field} ({self.source}): {self.problem}" if self.field else self.problem


class SettingsError(Exception):
    """All mistakes of a configuration, as far as a message may be long."""

    def __init__(
        self, mistakes: Sequence[Mistake], *, unlisted: int, values: Mapping[str, Any]
    ) -> None:
        super().__init__(summary(mistakes, unlisted))
        self.mistakes = list(mistakes)
        self.unlisted = unlisted
        """How many mistakes there are besides."""
        self.values = values
        """The values as they were given, right and wrong ones."""


def summary(mistakes: Sequence[Mistake], unlisted: int = 0) -> str:
    """Say how many mistakes there are, and each on a line."""
    count = len(mistakes) + unlisted
    lines = [f"  {mistake}" for mistake in mistakes]
    if unlisted:
        lines.append(f"  and {unlisted} more")
    noun = "mistake" if count == 1 else "mistakes"
    return "\n".join([f"the configuration has {count} {noun}:", *lines])


def _shortened(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else f"{text[:chars_max]}..."
