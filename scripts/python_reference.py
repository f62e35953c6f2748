"""Write `docs/python-api.md`, the reference of the Python packages, from their docstrings.

A test keeps the committed file equal to what this makes, and looks that no public name is missing.

Usage: python scripts/python_reference.py
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "python-api.md"
LINE_CHARS_MAX = 100
INTRODUCTION = """\
# Python reference

Generated from the docstrings by `make api-docs`; do not edit. How to use all this:
[the client](python.md), [the worker](worker.md). Instants are aware datetimes, a `Span` is a
timedelta or a number of seconds.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One class or function, and where it is."""

    file: str
    name: str
    shown: str = ""
    """Its name for readers, if that is another."""
    inherited: Sequence[tuple[str, str]] = ()
    """Classes whose fields and methods it has, too: files and names."""


@dataclass(frozen=True, slots=True)
class Part:
    """A chapter."""

    title: str
    text: str
    entries: Sequence[Entry]


_CALLS = tuple(
    (f"tq_client/services/{name}.py", f"{cls}Calls")
    for name, cls in (
        ("tasks", "Task"),
        ("queues", "Queue"),
        ("cluster", "Cluster"),
        ("workers", "Worker"),
    )
)
_MODEL, _ENUMS, _ERRORS = "tq_client/model.py", "tq_client/enums.py", "tq_client/errors.py"
_OPTIONS = "tq/v1/task_options.py"
_CONTEXT, _HOOKS, _TYPED = (f"tq_worker/api/{name}.py" for name in ("context", "hooks", "typed"))
PARTS: Sequence[Part] = (
    Part(
        "Clients",
        "`from tq_client import AsyncClient, Client`. `Client` has the methods of `AsyncClient`"
        " without `async`: they block, and any thread may call them. An asynchronous iterator"
        " there is an iterator here.",
        (
            Entry("tq_client/async_client.py", "AsyncClient", inherited=_CALLS),
            Entry("tq_client/client.py", "Client"),
        ),
    ),
    Part(
        "Options of a task",
        "For `submit`, `task_spec`, `@task` and `.options`; `from tq_client import After, Backoff,"
        " task_spec`.",
        (
            Entry("tq_client/specs.py", "SpecFields", inherited=((_OPTIONS, "TaskOptions"),)),
            Entry("tq_client/specs.py", "Backoff"),
            Entry("tq_client/dependencies.py", "After"),
            Entry("tq_client/specs.py", "task_spec"),
        ),
    ),
    Part(
        "What calls return",
        "All of it can be imported from `tq_client`.",
        (
            Entry(_MODEL, "Task", inherited=((_OPTIONS, "TaskFields"),)),
            *(Entry(_MODEL, name) for name in ("Attempt", "DependencyStatus", "Cancellation")),
            Entry("tq_client/dead_letters.py", "DeadLetterFilter"),
            *(Entry(_MODEL, name) for name in ("Redrive", "Deletion")),
            *(Entry(_MODEL, name) for name in ("QueueStats", "QueueTotals", "QueueSettings")),
            *(Entry(_ENUMS, name) for name in ("TaskState", "FailureReason", "CancelReason")),
            *(Entry(_ENUMS, name) for name in ("DependencyOutcome", "AttemptEnd")),
            *(Entry(_ENUMS, name) for name in ("Ordering", "ReadLevel")),
            Entry("tq_client/calls.py", "Answer"),
        ),
    ),
    Part(
        "Errors of calls",
        "`from tq_client.errors import ...`; `Reason` and `TqError` from `tq_client`, too.",
        tuple(
            Entry(_ERRORS, name)
            for name in (
                *("TqError", "RequestError", "InvalidArgumentError", "NotFoundError"),
                *("ConflictError", "LeaseLostError", "AccessDeniedError", "UnsupportedError"),
                *("UnavailableError", "BusyError", "OutcomeUnknownError", "ForkedError"),
                *("InternalError", "Reason"),
            )
        ),
    ),
    Part(
        "Handlers",
        "`from tq_worker import ...`",
        (
            Entry("tq_worker/api/decorator.py", "task", "@task"),
            Entry(_CONTEXT, "TaskContext"),
            Entry(_CONTEXT, "Cancellation", "tq_worker.Cancellation"),
            Entry(_CONTEXT, "Result"),
            Entry(_CONTEXT, "current_task"),
            *(
                Entry("tq_worker/api/errors.py", name)
                for name in (
                    *("PermanentError", "RetryableError", "Snooze", "UnfitTaskError"),
                    *("TaskCancelledError", "TaskFailedError"),
                )
            ),
            *(Entry(_HOOKS, name) for name in ("before_task", "after_task", "on_failure")),
            *(Entry(_HOOKS, name) for name in ("on_dead", "Outcome")),
            Entry("tq_worker/telemetry/logs.py", "TaskLogFilter"),
        ),
    ),
    Part(
        "Typed tasks",
        "What `@task` makes of a function with types; `from tq_worker import Handle, TypedTask`.",
        (Entry(_TYPED, "TypedTask"), Entry(_TYPED, "Handle")),
    ),
    Part(
        "Tests of handlers",
        "`from tq_worker.testing import task_context`; how to use it: [testing](testing.md).",
        (Entry("tq_worker/testing.py", "task_context"),),
    ),
)

INTERNAL = frozenset({"of", "handler", "handles", "blocking", "awaited"})
"""Methods that the packages themselves need."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Definition = ast.ClassDef | _Function


def find(file: str, name: str) -> list[_Definition]:
    """Return the definitions of a name: several, if it is overloaded."""
    tree = ast.parse((ROOT / file).read_text())
    found = [node for node in tree.body if isinstance(node, _Definition) and node.name == name]
    if not found:
        sys.exit(f"{file} has no {name}")
    return found


def reference() -> str:
    """Make the document."""
    lines = [INTRODUCTION]
    for part in PARTS:
        lines += [f"## {part.title}\n", f"{part.text}\n"]
        for entry in part.entries:
            lines += _entry(entry)
    return "\n".join(lines)


def _entry(entry: Entry) -> Iterator[str]:
    *overloads, definition = find(entry.file, entry.name)
    yield f"### {entry.shown or entry.name}\n"
    if isinstance(definition, ast.ClassDef):
        yield from _class(definition, entry)
    else:
        shown = [each for each in overloads if isinstance(each, _Function)] or [definition]
        yield _signatures(shown, entry.name, drop_self=False)
        yield from _said(definition)


def _class(definition: ast.ClassDef, entry: Entry) -> Iterator[str]:
    yield from _said(definition)
    parts = []
    for file, name in entry.inherited:
        [part] = find(file, name)
        assert isinstance(part, ast.ClassDef)
        parts.append(part)
    fields = [field for part in (*parts, definition) for field in _fields(part)]
    if fields and fields[0][0].isupper():
        yield (
            "\n".join(f"- `{name}`{': ' if said else ''}{said}" for name, _, said in fields) + "\n"
        )
    elif fields:
        yield "| field | type | |\n| --- | --- | --- |"
        yield "\n".join(f"| `{name}` | `{kind}` | {said} |" for name, kind, said in fields) + "\n"
    methods = list(_methods(definition))
    for part in parts:
        methods += _methods(part)
    for method in methods:
        title = entry.name if method.name == "__init__" else f"{entry.name}.{method.name}"
        if method.name != "__init__":
            yield f"#### {title}\n"
        if _is_property(method):
            kind = f": {ast.unparse(method.returns)}" if method.returns else ""
            yield f"```text\n{title}{kind}\n```\n"
        else:
            yield _signatures([method], title, drop_self=True)
        yield from _said(method)


def _methods(definition: ast.ClassDef) -> Iterator[_Function]:
    for node in definition.body:
        if isinstance(node, _Function) and (
            not (node.name.startswith("_") or node.name in INTERNAL)
            or (node.name == "__init__" and ast.get_docstring(node))
        ):
            yield node


def _is_property(method: _Function) -> bool:
    return any(ast.unparse(each) == "property" for each in method.decorator_list)


def _fields(definition: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Yield name, type or value, and what is said of it."""
    for node, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        said = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said = " ".join(_prose(inspect.cleandoc(str(after.value.value))).split())
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if not node.target.id.startswith("_"):
                yield node.target.id, ast.unparse(node.annotation).replace("|", "\\|"), said
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.isupper() and not name.startswith("_"):
                yield name, ast.unparse(node.value).rpartition(".")[2], said


def _signatures(functions: Sequence[_Function], title: str, *, drop_self: bool) -> str:
    shown = []
    for function in functions:
        arguments = function.args
        if drop_self and arguments.args:
            arguments.args = arguments.args[1:]
        text = ast.unparse(arguments)
        returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
        prefix = "async " if isinstance(function, ast.AsyncFunctionDef) else ""
        if title[0].isupper() and "." not in title:
            returns = ""
        line = f"{prefix}{title}({text}){returns}"
        if len(line) > LINE_CHARS_MAX:
            inside = ",\n    ".join(_apart(text))
            line = f"{prefix}{title}(\n    {inside},\n){returns}"
        shown.append(line)
    return "```text\n" + "\n".join(shown) + "\n```\n"


def _apart(arguments: str) -> Iterator[str]:
    """Split at the commas that stand in no bracket and in no text."""
    depth, start, quoted = 0, 0, False
    for place, character in enumerate(arguments):
        quoted ^= character == "'"
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth and not quoted:
            yield arguments[start:place].strip()
            start = place + 1
    yield arguments[start:].strip()


def _said(node: _Definition) -> Iterator[str]:
    text = ast.get_docstring(node)
    if text:
        yield _prose(text) + "\n"


def _prose(text: str) -> str:
    """Turn a docstring into Markdown: code in single backticks, sections as lists."""
    text = text.replace("``", "`")
    out: list[str] = []
    listing = False
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Raises|Returns|Yields):", line):
            out += [f"*{line.removesuffix(':')}*", ""]
            listing = True
        elif listing and (match := re.match(r" {4}(\w[\w, .]*): (.*)", line)):
            out.append(f"- `{match[1]}`: {match[2]}")
        elif listing and line.startswith("    "):
            out.append(f"  {line.strip()}")
        else:
            listing = listing and not line
            out.append(line)
    return "\n".join(out)


def main() -> None:
    """Write it."""
    TARGET.write_text(reference())
    print(f"wrote {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
