"""Converts a typed function's arguments and result to JSON and back."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tq_common.quoting import shown
from tq_worker.api.context import Result, TaskContext
from tq_worker.api.errors import UnfitTaskError

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

JSON = "application/json"
_MISSING = inspect.Parameter.empty
_CONFIG: ConfigDict = {
    "extra": "forbid",
    # The defaults lose values: UTF-8 cannot hold all bytes, and null is not a number.
    "ser_json_bytes": "base64",
    "val_json_bytes": "base64",
    "ser_json_inf_nan": "strings",
}


class Signature:
    """One function's arguments, as a JSON object by name, and its result.

    Pydantic decides which types are allowed. It is imported, and the annotations are evaluated, on
    first use, so that they may name classes defined below the function.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        parameters = list(inspect.signature(function).parameters.values())
        self.takes_context = bool(parameters) and accepts(
            parameters[0].annotation, TaskContext, exactly=True
        )
        self._signature = inspect.Signature(parameters[1:] if self.takes_context else parameters)
        for each in self._signature.parameters.values():
            if each.kind in {each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY}:
                raise TypeError(
                    f"its parameter {each} has no name in JSON; * and ** and those before / "
                    "cannot be sent"
                )
            if each.annotation is _MISSING:
                raise TypeError(
                    f"its parameter {each.name} has no type: write {each.name}: str, or whichever "
                    "it is; a handler of bytes is (payload: bytes, context: TaskContext)"
                )

    def prepare(self) -> None:
        """Evaluate the annotations; raises if one is unknown or has no form in JSON."""
        _ = self._adapters, self._arguments, self._result

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Make the payload of a call; raises TypeError if the arguments do not fit the function."""
        bound = self._signature.bind(*args, **kwargs).arguments
        # One by one: pydantic writes the items of a TypedDict by its defaults, not by our settings.
        fields = [
            b'"%s":%s' % (name.encode(), _encode(f"{name}: ", self._adapters[name], value))
            for name, value in bound.items()
        ]
        return b"{" + b",".join(fields) + b"}"

    def decode(self, payload: bytes) -> dict[str, Any]:
        """Read the arguments; raises UnfitTaskError if they do not fit the function."""
        try:
            arguments: dict[str, Any] = self._arguments.validate_json(payload or b"{}")
        except ValueError as error:
            raise UnfitTaskError(f"the payload does not fit the handler: {error}") from None
        return arguments

    def encode_result(self, value: object) -> bytes:
        """Encode the result; raises TypeError if it does not match the return annotation."""
        return _encode("", self._result, value)

    def decode_result(self, result: bytes) -> Any:  # noqa: ANN401 - what the function returns
        """Read the result; raises ValueError if it is of another type."""
        return self._result.validate_json(result)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self._function, include_extras=True)

    @cached_property
    def _adapters(self) -> dict[str, TypeAdapter[Any]]:
        return {name: _adapter(self._hints[name]) for name in self._signature.parameters}

    @cached_property
    def _arguments(self) -> TypeAdapter[Any]:
        hints = self._hints
        fields = {
            each.name: (
                typing.Required[hints[each.name]]
                if each.default is _MISSING
                else typing.NotRequired[hints[each.name]]
            )
            for each in self._signature.parameters.values()
        }
        arguments: Any = _typed_dict("arguments", fields)
        arguments.__pydantic_config__ = _CONFIG
        return _adapter(arguments)

    @cached_property
    def _result(self) -> TypeAdapter[Any]:
        return _adapter(_body_of(self._hints.get("return", Any)))


def _body_of(hint: Any) -> Any:  # noqa: ANN401 - any type there is
    """The type of what is sent if a function returns ``hint``: for a Result, that of its body."""
    if hint is Result:
        return bytes
    origin = typing.get_origin(hint)
    if origin is Result:
        [body] = typing.get_args(hint)
        return body
    if origin in {typing.Union, types.UnionType}:
        return typing.Union[tuple(map(_body_of, typing.get_args(hint)))]  # noqa: UP007 - of as many as there are
    return hint


def is_plain(function: Callable[..., Any]) -> bool:
    """Whether a function is a handler of bytes: (payload: bytes, context: TaskContext).

    If it has no annotations, the name of its second parameter decides.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if not getattr(function, "__annotations__", None):
        second = parameters[1].name.strip("_") if len(parameters) > 1 else ""
        return second in {"context", "ctx"}
    needed = [each for each in parameters if each.default is _MISSING]
    return (
        len(parameters) >= 2  # noqa: PLR2004 - payload and context
        and len(needed) <= 2  # noqa: PLR2004 - as above
        and accepts(parameters[0].annotation, bytes)
        and accepts(parameters[1].annotation, TaskContext)
    )


def check_kind(function: Callable[..., Any]) -> None:
    """Raise TypeError, with advice, for a function that a call would not run to its end."""
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError("it is a generator: a handler returns its result, a list for example")
    if inspect.iscoroutinefunction(function):
        return
    wraps = isinstance(function, types.FunctionType) and inspect.iscoroutinefunction(
        inspect.unwrap(function)
    )
    returns = getattr(function, "__annotations__", {}).get("return", "")
    if isinstance(returns, str):  # which it is in most modules: from __future__ import annotations
        promises = returns.partition("[")[0].rpartition(".")[2] in {"Awaitable", "Coroutine"}
    else:
        promises = (typing.get_origin(returns) or returns) in {Awaitable, Coroutine}
    if promises or wraps:
        raise TypeError(
            "it is a plain function that gives a coroutine, which nobody would await: make it async"
            " (a decorator's wrapper, too: async def wrapper(...): return await function(...));"
            " for one that runs the coroutine itself, del wrapper.__wrapped__"
        )


def accepts(annotation: object, wanted: type, *, exactly: bool = False) -> bool:
    """Whether a parameter takes a ``wanted``; ``exactly``: only if its annotation names it.

    Annotations that are still text are judged by the last part of the name, so that the type need
    not be importable.
    """
    if isinstance(annotation, str):
        names = {part.strip().rsplit(".", 1)[-1] for part in annotation.split("|")}
    elif typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        names = {_name(part) for part in typing.get_args(annotation)}
    else:
        names = {_name(annotation)}
    if wanted.__name__ in names:
        return True
    return not exactly and (annotation is _MISSING or not names.isdisjoint({"Any", "object"}))


def _name(annotation: object) -> str:
    return getattr(annotation, "__name__", str(annotation))


def _typed_dict(name: str, fields: dict[str, Any]) -> object:
    from typing_extensions import TypedDict  # noqa: PLC0415 - as below

    return TypedDict(name, fields)  # type: ignore[operator]  # its fields are known only now


def _adapter(wanted: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any type there is
    # Only if it is needed: it takes 10 MB in a process that may have no typed function.
    from pydantic import PydanticUserError, TypeAdapter  # noqa: PLC0415

    try:
        return TypeAdapter(wanted, config=_CONFIG)
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(wanted)  # models and the like bring their own


def _encode(where: str, adapter: TypeAdapter[Any], value: object) -> bytes:
    """Write a value as JSON; TypeError, prefixed with ``where``, unless it reads back equal."""
    from pydantic_core import PydanticSerializationError  # noqa: PLC0415 - as above

    try:
        encoded = adapter.dump_json(value, warnings="error", by_alias=True, round_trip=True)
    except PydanticSerializationError as error:
        raise TypeError(f"{where}{_shown(value)} does not fit: {error}") from None
    try:
        back = adapter.validate_json(encoded)
    except ValueError as error:
        raise TypeError(
            f"{where}{_shown(value)} would not be read again from JSON, {_shown(encoded)}: {error}"
        ) from None
    if not _same(value, back):
        raise TypeError(
            f"{where}{_shown(value)} would come back from JSON as {_shown(back)}: send what comes"
            " back as it is"
        )
    return encoded


def _same(one: object, other: object) -> bool:
    if one == other:
        return True
    # NaN is not equal to itself.
    return type(one) is type(other) and repr(one) == repr(other) and "nan" in repr(one)


def _shown(value: object) -> str:
    return shown(value, _SHOWN_CHARS_MAX)


_SHOWN_CHARS_MAX = 100
"""More than of a name: here a value's fields are what does not fit."""
