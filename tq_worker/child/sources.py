"""The source files of a worker's handlers, which `--reload` watches."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_OURS = Path(__file__).parents[1]


def files(modules: Sequence[str], errors: Iterable[BaseException]) -> list[str]:
    """List the files of imported modules, except those of Python, of packages and of tq itself.

    If ``modules`` could not be imported, with these ``errors``, the list includes the files where
    they would be found, and those that the errors name.
    """
    found = {
        file
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None)) is not None
    }
    absent = [name for name in modules if name not in sys.modules]
    for error in errors:
        found.update(frame.filename for frame in traceback.extract_tb(error.__traceback__))
        if isinstance(error, SyntaxError) and error.filename:
            found.add(error.filename)
        if isinstance(error, ModuleNotFoundError) and error.name:
            absent.append(error.name)
    for name in absent:
        found.update(map(str, _places(name)))
    apart = _apart()
    paths = (Path(each).absolute() for each in found if each.endswith(".py"))
    return sorted(str(path) for path in paths if not any(map(path.is_relative_to, apart)))


def _apart() -> list[Path]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return [_OURS, *(Path(sysconfig.get_path(name)) for name in names)]


def _places(name: str) -> Iterator[Path]:
    relative = Path(*name.split("."))
    for entry in sys.path:
        yield Path(entry) / relative.with_suffix(".py")
        yield Path(entry) / relative / "__init__.py"
