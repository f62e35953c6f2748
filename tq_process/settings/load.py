"""Reads settings from file, environment and flags, and finds every mistake."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tq_process.settings.setting import (
    FIELD_CHARS_MAX,
    MISTAKES_MAX,
    Mistake,
    Problem,
    Setting,
    SettingsError,
)

NEAR: Final = 0.7
"""How alike two names are, 0 to 1, of which one is suggested for the other."""

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 100
_shortened.maxlong = 40
_shortened.maxlevel = 3

Model = TypeVar("Model", bound=BaseModel)
Flags = Mapping[tuple[str, ...], str]
"""A field's path and its text on the command line, such as ``("log", "format"): "json"``."""
Contradictions = Callable[[Mapping[str, Any]], Iterable[Problem]]
"""Finds fields that are each well formed and contradict each other. It gets the values as they
were given, so that it works beside other mistakes.
"""


def load(
    model: type[Model],
    settings: Sequence[Setting],
    *,
    path: Path | None,
    environment: Mapping[str, str],
    flags: Flags,
    example: str,
    contradictions: Contradictions,
) -> Model:
    """Read the settings; SettingsError lists every mistake.

    The environment overrides the file, flags override the environment. ``example`` is a line of
    such a file. The model refuses fields that it does not know.
    """
    mistakes: list[Mistake] = []
    values = _read_file(path, example, mistakes) if path is not None else {}
    unread = bool(mistakes)
    sources = _Sources(str(path) if path is not None else "no file given")
    for setting in settings:
        given = [
            (source, text)
            for source, text in (
                (setting.environment, environment.get(setting.environment)),
                (setting.flag, flags.get(setting.field)),
            )
            if text is not None and (text or not setting.empty_is_absent)
        ]
        if given:
            source, text = given[-1]
            value, problems = setting.from_text(text) if setting.from_text else (text, ())
            _override(values, setting.field, value)
            sources.of[setting.name] = source
            mistakes += [Mistake(name, source, problem) for name, problem in problems]

    loaded: Model | None = None
    unlisted = 0
    try:
        loaded = model.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        unlisted = max(0, len(details) - MISTAKES_MAX)
        for detail in details[:MISTAKES_MAX]:
            if unread and detail["type"] == "missing":
                continue  # it may be in the file
            name = ".".join(str(part) or "''" for part in detail["loc"] if part != "[key]")
            problem = _say(detail, _known(model, detail["loc"], settings))
            mistakes.append(Mistake(name, sources.find(name), problem))
    for name, problem in contradictions(values):
        mistakes.append(Mistake(name, sources.find(name), problem))
    if mistakes or loaded is None:
        raise SettingsError(
            [mistake.for_people() for mistake in mistakes[:MISTAKES_MAX]],
            unlisted=unlisted + max(0, len(mistakes) - MISTAKES_MAX),
            values=values,
        )
    return loaded


def shown(value: object) -> str:
    """Write a value as Python does, shortened if it is long."""
    return _shortened.repr(value)


def default_of(model: type[BaseModel], setting: Setting) -> str:
    """The text of a field's default; empty if it is required, None, false or empty."""
    *above, name = setting.field
    for part in above:
        model = _section(model, part) or model
    field = model.model_fields[name]
    return "" if field.is_required() or not field.default else str(field.default)


class _Sources:
    """Where each value came from."""

    def __init__(self, file_name: str) -> None:
        self._file_name = file_name
        self.of: dict[str, str] = {}
        """The fields that are overridden, and by what."""

    def find(self, name: str) -> str:
        for known, source in self.of.items():
            if name == known or name.startswith(known + "."):
                return source
        return self._file_name


def _read_file(path: Path, example: str, mistakes: list[Mistake]) -> dict[str, Any]:
    # Here, so that a program without a file starts without the parser.
    from tq_process.settings import file  # noqa: PLC0415

    try:
        return file.read(path, example)
    except file.FileError as error:
        mistakes.append(Mistake("", "", str(error)))
        return {}


def _override(values: dict[str, Any], field: tuple[str, ...], value: object) -> None:
    target = values
    for part in field[:-1]:
        section = target.get(part)
        # The model reports a section that is not a mapping; the override starts a new one.
        target[part] = target = dict(section) if isinstance(section, dict) else {}
    target[field[-1]] = value


def _section(model: type[BaseModel], name: object) -> type[BaseModel] | None:
    field = model.model_fields.get(str(name))
    found = field.annotation if field is not None else None
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _known(
    model: type[BaseModel], loc: Sequence[int | str], settings: Sequence[Setting]
) -> dict[str, str]:
    """What a field at this place may have been meant to be: spellings, and the right name of each.

    That is each field of its section, and each setting by its path in one word, as in its flag.
    """
    for part in loc[:-1]:
        section = _section(model, part)
        if section is None:
            return {}
        model = section
    known = {each.parameter: each.name for each in settings}
    known |= {each.flag.lstrip("-").replace("-", "_"): each.name for each in settings}
    above = "".join(f"{part}." for part in loc[:-1])
    return known | {name: above + name for name in model.model_fields}


def _say(detail: ErrorDetails, known: Mapping[str, str]) -> str:
    """Describe what is wrong and what would be right."""
    value, context = detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "missing":
            return "is missing; it is required"
        case "extra_forbidden":
            return f"is not a field that is known here{_meant(str(detail['loc'][-1]), known)}"
        case "invalid_key":
            return f"a field's name must be text, is {shown(value)}; write it in quotes"
        case "string_type":
            return f"must be text, is {shown(value)}; write it in quotes"
        case "literal_error":
            return f"is {shown(value)}; right is one of {context['expected']}"
        case "wrong":
            return detail["msg"]
        case "value_error":
            return f"{context['error']}; is {shown(value)}"
        case "bool_type" | "bool_parsing":
            return f"must be true or false; is {shown(value)}"
        case "dict_type" | "model_type":
            return f"must be a mapping, is {shown(value)}"
        case "path_type":
            return f"must be a path, is {shown(value)}"
        case _:
            return f"{detail['msg']}; is {shown(value)}"


def _meant(name: str, known: Mapping[str, str]) -> str:
    """Suggest the known name that is nearest, if one is near."""
    if len(name) > FIELD_CHARS_MAX:
        return ""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=NEAR)
    return f"; did you mean {known[near[0]]}?" if near else ""
