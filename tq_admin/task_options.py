"""The options of a task as options of a command: their flags, and how a text becomes a value."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar, overload

import typer

from tq.v1.task_options import OPTIONS
from tq_admin import values
from tq_common import durations
from tq_common.task_options import Kind, TaskOption

_T = TypeVar("_T")
Function = TypeVar("Function", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class _Form:
    """How values of a kind are typed."""

    type: Any
    """The type for typer."""
    metavar: str | None = None
    read: Callable[[Any], Any] | None = None
    """Makes the option's value of what typer parsed; ValueError says what is right."""
    example: str = ""
    each: bool = False
    """The flag may be repeated, and each is read alone."""


_FORMS: Final[Mapping[Kind, _Form]] = {
    Kind.NUMBER: _Form(int),
    Kind.FLAG: _Form(bool),
    Kind.TEXT: _Form(str),
    Kind.BYTES: _Form(str, read=str.encode),
    Kind.SPAN: _Form(str, "SPAN", durations.parse, "30s, 5m, 2h"),
    Kind.INSTANT: _Form(str, "INSTANT", values.instant, "2030-01-31T08:00:00Z"),
    Kind.TEXTS: _Form(list[str], "TEXT", each=True),
    Kind.MAP: _Form(list[str], "KEY=VALUE", values.label, each=True),
}


def made_options() -> Iterator[TaskOption]:
    """Yield the options whose flags are made from task.proto; the others are written by hand."""
    return (option for option in OPTIONS if option.flag and not option.by_hand)


def with_task_options(function: Function) -> Function:
    """Give a command the flags of the made options, in place of its ``**options``."""
    signature = inspect.signature(function, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    made = [
        inspect.Parameter(
            _parameter(option),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[_form(option).type | None, _flag(option)],
        )
        for option in made_options()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *made])  # type: ignore[attr-defined]  # inspect reads it
    return function


def read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of made options as `task_spec` takes them; BadParameter names the flag."""
    fields: dict[str, Any] = {}
    for option in made_options():
        value = given[_parameter(option)]
        if value is None:
            continue
        form, flag = _form(option), f"--{option.flag}"
        if form.each:
            parts = [read(flag, form.read, part) if form.read else part for part in value]
            fields[option.name] = dict(parts) if option.kind is Kind.MAP else parts
        else:
            fields[option.name] = read(flag, form.read, value) if form.read else value
    return fields


@overload
def read(flag: str, how: Callable[[Any], _T], given: str) -> _T: ...
@overload
def read(flag: str, how: Callable[[Any], _T], given: str | None) -> _T | None: ...
def read(flag: str, how: Callable[[Any], _T], given: str | None) -> _T | None:
    """Read what was given for a flag; BadParameter says what is right."""
    if given is None:
        return None
    try:
        return how(given)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from None


def _parameter(option: TaskOption) -> str:
    """Return a name that no option of the command itself has."""
    return f"option_{option.name}"


def _form(option: TaskOption) -> _Form:
    if option.kind is Kind.CHOICE:
        members = {word.upper(): word for word in option.choices}
        words: Any = enum.StrEnum(option.name, members)  # type: ignore[misc]  # a name known at run time
        return _Form(words, read=str)
    return _FORMS[option.kind]


def _flag(option: TaskOption) -> Any:  # noqa: ANN401  # typer's own type
    form = _form(option)
    help_text = option.doc + (f" As {form.example}." if form.example else "")
    help_text += " May be repeated." if form.each else ""
    declared = f"--{option.flag}"
    if option.kind is Kind.FLAG:
        declared = f"--{option.flag}/--no-{option.flag}"
    least = (option.least or 0) if option.kind is Kind.NUMBER else None
    most = option.most if option.kind is Kind.NUMBER else None
    return typer.Option(declared, metavar=form.metavar, min=least, max=most, help=help_text)
