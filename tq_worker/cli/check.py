"""The command `tq-worker check`: checks a configuration and its handlers without starting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tq.internal.v1.worker_child_pb2 import Handler
from tq_worker.api.errors import UsageError
from tq_worker.api.registry import HANDLERS, load
from tq_worker.broker import claim_groups
from tq_worker.wire import exits

if TYPE_CHECKING:
    # The process that imports the handlers starts from this module, and needs no configuration.
    from tq_worker.cli.config import Attempt


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of importing the handlers."""

    problems: Sequence[str]
    handlers: Sequence[tuple[str, str, str, int]]
    """Of each its type, its execution, the queue that its `submit` uses ("-" if none), and its
    limit.
    """


def check(attempt: Attempt) -> list[str]:
    """Return a list of the handlers, for people; raises UsageError with every problem found."""
    problems = [str(attempt.error)] if attempt.error is not None else []
    found = import_apart(attempt.modules) if attempt.modules else Found((), ())
    problems += found.problems
    limits = attempt.config.limit if attempt.config is not None else {}
    if not problems:
        known = {
            task_type: Handler(type=task_type, solo=execution == "process", limit=limit)
            for task_type, execution, _, limit in found.handlers
        }
        if (fault := claim_groups.problem(known, limits)) is not None:
            problems.append(fault)
    if problems:
        raise UsageError(problems)
    rows = [
        (task_type, execution, queue, str(limits.get(task_type, limit) or "-"))
        for task_type, execution, queue, limit in found.handlers
    ]
    lines = list(_table(("TYPE", "EXECUTION", "QUEUE", "LIMIT"), rows))
    if attempt.config is not None and attempt.config.queues is not None:
        lines += _unserved(found.handlers, attempt.config.queues)
    return lines


def _unserved(
    handlers: Sequence[tuple[str, str, str, int]], served: Collection[str]
) -> Iterator[str]:
    """Warn of handlers that submit to a queue from which this worker does not claim."""
    for task_type, _, queue, _ in handlers:
        if queue not in {"-", *served}:
            yield (
                f"warning: {task_type} is submitted to queue {queue}, from which this worker does"
                " not claim"
            )


def import_apart(modules: Sequence[str]) -> Found:
    """Import handlers as `run` does, but in another process, so that they cannot harm this one."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "tq_worker.cli.check", str(writing), *modules]
    process = subprocess.Popen(  # noqa: S603 - our own module, checked arguments
        # What they print is not part of the list.
        command,
        pass_fds=(writing,),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
    )
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:  # noqa: PTH123 - a descriptor, not a path
        text = answer.read()
    code = process.wait()
    if not text:
        problem = f"--handlers {','.join(modules)}: while imported, {exits.explain(code)}"
        return Found((problem,), ())
    told = json.loads(text)
    return Found(told["problems"], [tuple(each) for each in told["handlers"]])


def main() -> None:
    """Import the handlers and write what was found to the descriptor that the parent named."""
    writing = int(sys.argv[1])
    os.set_inheritable(writing, False)
    problems = load(sys.argv[2:]).problems
    handlers = [
        (each.task_type, each.execution, each.queue or "-", each.concurrency)
        for each in HANDLERS.handlers()
    ]
    with open(writing, "w", encoding="utf-8") as answer:
        json.dump({"problems": problems, "handlers": handlers}, answer)
    # Do not wait for threads that a module has started.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


if __name__ == "__main__":
    main()
