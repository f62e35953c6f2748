"""Runs the command line: the only place that uses the real client and the real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from tq_client import AsyncClient
from tq_process import signals
from tq_worker.api.errors import UsageError
from tq_worker.broker.connection import Link
from tq_worker.cli.check import check
from tq_worker.cli.options import CommandLine, parser, read
from tq_worker.pool.reload import Changes
from tq_worker.telemetry import logs
from tq_worker.wire import exits
from tq_worker.worker import Worker


def main() -> None:
    """Run the command line; exits 0 after an orderly end, else as `exits` says."""
    arguments = parser().parse_args()
    try:
        if arguments.command == "check":
            for line in check(arguments, os.environ):
                print(line)  # noqa: T201 - as below
            return
        command = read(arguments, os.environ)
        logs.configure(command.worker.log_format)
        os.environ |= command.worker.telling.environment()
        if command.worker.reload:
            # Bytecode files record times in whole seconds: two changes within one look the same.
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        code = asyncio.run(run(command))
    except UsageError as error:
        complain(error.problems)
        sys.exit(exits.USAGE)
    sys.exit(code)


async def run(command: CommandLine) -> int:
    """Work until a signal says to leave; returns the exit code."""
    link = Link(lambda: AsyncClient(command.addresses))
    worker = Worker(command.worker, link, link.reconnect)
    left = asyncio.Event()

    def leave() -> None:
        left.set()
        worker.leave()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave)
    # Running handlers may finish: their processes ignore the terminal's signals.
    signals.on_hangup(loop, leave)
    signals.log_passed_over(loop)
    signals.tell_stacks_on_quit(loop)
    try:
        while True:
            try:
                undelivered = await worker.run()
            except UsageError as error:
                if not command.worker.reload or not worker.sources():
                    raise
                complain([*error.problems, "waiting for the next change of a file"])
                if not await _changed(worker, left):
                    return exits.USAGE
                worker = Worker(command.worker, link, link.reconnect)
            else:
                if worker.deaf:
                    return exits.DEAF
                return exits.UNDELIVERED if undelivered else 0
    finally:
        await link.close()


async def _changed(worker: Worker, left: asyncio.Event) -> bool:
    """Wait for a change of a handler's file; False if the worker must leave before."""
    changing = asyncio.ensure_future(Changes(worker.sources, worker.made_ns).next())
    leaving = asyncio.ensure_future(left.wait())
    done, waiting = await asyncio.wait([changing, leaving], return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    return changing in done


def complain(problems: Sequence[str]) -> None:
    """Print problems to standard error."""
    for problem in problems:
        print(f"tq-worker: {problem}", file=sys.stderr)  # noqa: T201 - as it says
