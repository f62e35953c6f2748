"""The command line, run: the only place that picks the real client and the real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tq_client import AsyncClient
from tq_worker import logs
from tq_worker.check import check
from tq_worker.errors import UsageError
from tq_worker.options import CommandLine, parser, read
from tq_worker.worker import Worker

EXIT_USAGE = 2
EXIT_UNDELIVERED = 1


def main() -> None:
    """Run the command line; exits 0 after an orderly end, 2 where it cannot be run."""
    arguments = parser().parse_args()
    try:
        if arguments.command == "check":
            for line in check(arguments, os.environ):
                print(line)  # noqa: T201 - as below
            return
        command = read(arguments, os.environ)
        logs.configure(command.worker.log_format)
        os.environ |= command.worker.telling.environment()
        undelivered = asyncio.run(run(command))
    except UsageError as error:
        for problem in error.problems:
            print(f"tq-worker: {problem}", file=sys.stderr)  # noqa: T201 - to the person who typed the command
        sys.exit(EXIT_USAGE)
    sys.exit(EXIT_UNDELIVERED if undelivered else 0)


async def run(command: CommandLine) -> int:
    """Work until a signal says to leave; returns how many reports could not be delivered."""
    async with AsyncClient(command.addresses) as client:
        worker = Worker(command.worker, client)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, worker.leave)
        return await worker.run()
