"""Commands of typer that have a file of settings and a flag for each of them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from tq_process.settings.setting import Kind, Setting

Function = TypeVar("Function", bound=Callable[..., None])
Load = Callable[[Path | None, Mapping[str, str], Mapping[tuple[str, ...], str]], object]
"""Reads file, environment and flags."""
_NEGATION = "no_"


class Commands:
    """Registers functions of a configuration as commands."""

    def __init__(
        self,
        app: typer.Typer,
        settings: Sequence[Setting],
        *,
        file_help: str,
        default_of: Callable[[Setting], str],
    ) -> None:
        """``default_of`` returns the text of a default, empty if there is none to show."""
        self._app = app
        self._settings = settings
        self._file = typer.Option("--config", help=file_help, show_default=False)
        self._default_of = default_of

    def command(
        self, name: str, load: Load, *, reads_again: bool = False
    ) -> Callable[[Function], Function]:
        """Register a function of the loaded configuration.

        ``reads_again``: the function's second parameter reads the configuration once more. Its
        other parameters are options of its own.
        """

        def register(function: Function) -> Function:
            def run(config: Path | None = None, **given: Any) -> None:  # noqa: ANN401 - as typer parsed them
                flags = {
                    setting.field: text
                    for setting in self._settings
                    if (text := _text(setting, given)) is not None
                }
                read = partial(load, config, os.environ, flags)
                function(*((read(), read) if reads_again else (read(),)), **given)

            first = 2 if reads_again else 1
            own = list(inspect.signature(function).parameters.values())[first:]
            if own:  # else their module need not have imported the types of the configuration
                evaluated = inspect.signature(function, eval_str=True)
                own = list(evaluated.parameters.values())[first:]
            parameters = [
                *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own),
                _parameter("config", Annotated[Path | None, self._file]),
                *(each for setting in self._settings for each in self._options(setting)),
            ]
            run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # typer reads it
            run.__annotations__ = {each.name: each.annotation for each in parameters}
            self._app.command(name, help=_joined(function.__doc__ or ""))(run)
            return function

        return register

    def _options(self, setting: Setting) -> Iterator[inspect.Parameter]:
        default = self._default_of(setting)
        about = f"{setting.help}  [${setting.environment}{default and f', default: {default}'}]"
        kinds: Mapping[Kind, Any] = {Kind.SWITCH: bool, Kind.LIST: list[str]}
        kind = kinds.get(setting.kind, str)
        option = typer.Option(setting.flag, help=about, metavar=setting.metavar, show_default=False)
        yield _parameter(setting.parameter, Annotated[kind | None, option])
        if setting.kind is Kind.SWITCH:
            # An option of its own: a column of the help for the few negations makes all narrow.
            negation = typer.Option(f"--no-{setting.flag.removeprefix('--')}", hidden=True)
            yield _parameter(_NEGATION + setting.parameter, Annotated[bool | None, negation])


def _text(setting: Setting, given: dict[str, Any]) -> str | None:
    """Take a setting's flag out of what typer parsed, as it would be in the environment."""
    text = given.pop(setting.parameter)
    if setting.kind is Kind.SWITCH:
        if given.pop(_NEGATION + setting.parameter):
            return "false"
        return "true" if text else None
    if setting.kind is Kind.LIST:
        return ",".join(text) if text else None
    return text  # type: ignore[no-any-return] # typer made it what its option says


def _joined(text: str) -> str:
    """Make each paragraph one line; the help breaks it as the terminal is wide."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _parameter(name: str, annotation: Any) -> inspect.Parameter:  # noqa: ANN401 - an annotation
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )
