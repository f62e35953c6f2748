"""Reads a YAML file of settings as plain values; the model checks them afterwards."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Final

import yaml

FILE_BYTES_MAX: Final = 1 << 18
NUMBER_CHARS_MAX: Final = 100
"""A longer number stays text: the time to read one grows with the square of its length."""


class FileError(Exception):
    """The file cannot be read, or is no mapping in YAML; the message names it and says why."""


def read(path: Path, example: str) -> dict[str, Any]:
    """Read the file's fields; none if it is empty. ``example`` is a line of such a file.

    Raises FileError.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{path}: cannot be read: {reason}") from None
    if len(content) > FILE_BYTES_MAX:
        raise FileError(f"{path}: is too long; right is {FILE_BYTES_MAX >> 10} KiB at most")
    try:
        loaded = yaml.load(content, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise FileError(f"{path}{where}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise FileError(f"{path}: not YAML: {error}") from None
    except RecursionError:
        raise FileError(f"{path}: not YAML: nested too deeply") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise FileError(f"{path}: must be a mapping of fields, such as {example}")
    return loaded


class _Loader(yaml.SafeLoader):
    """Refuses what the stock loader takes silently, or answers with an error of Python's own.

    A mapping that names a key twice is refused; the stock loader keeps the last. A number or a
    truth value that cannot be read as one stays text, and a date is text: the model then names the
    field, and says what is right there.
    """

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(
                None, None, "a mapping is expected here", node.start_mark
            )
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(
                    None, None, "a field's name must be text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        value: str = super().construct_scalar(node)
        if not _is_unicode(value):
            raise yaml.constructor.ConstructorError(
                None, None, "half of a surrogate pair is no character", node.start_mark
            )
        return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _or_text(
    construct: Callable[[_Loader, yaml.ScalarNode], Any],
) -> Callable[[_Loader, yaml.ScalarNode], Any]:
    def read_scalar(loader: _Loader, node: yaml.ScalarNode) -> Any:  # noqa: ANN401 - a number or text
        text = loader.construct_scalar(node)
        if len(text) > NUMBER_CHARS_MAX:
            return text
        try:
            return construct(loader, node)
        except (ValueError, LookupError, OverflowError):  # as of `!!int ""` and `!!bool "x"`
            return text

    return read_scalar


for _tag, _construct in (
    ("int", yaml.SafeLoader.construct_yaml_int),
    ("float", yaml.SafeLoader.construct_yaml_float),
    ("bool", yaml.SafeLoader.construct_yaml_bool),
    ("timestamp", yaml.SafeLoader.construct_yaml_str),
):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _or_text(_construct))
