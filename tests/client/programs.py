"""Separate programs that use the client, to test how they fork and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from tests.client.fake_broker import FakeBroker, serving
from tests.patience import PATIENCE_S


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int
    """The exit code; less than 0 if a signal ended the program."""
    said: str
    """The output on standard error, that of forked children included."""
    printed: str = ""
    """The same on standard output."""

    def __str__(self) -> str:
        """Tell everything that is known: the message of a test that fails."""
        by = f"signal {signal.Signals(-self.code).name}" if self.code < 0 else f"code {self.code}"
        return (
            f"the program ended with {by}"
            f"\n--- its standard output:\n{self.printed or '(empty)'}"
            f"\n--- its standard error:\n{self.said or '(empty)'}"
        )


async def run(program: str, broker: FakeBroker, *options: str, preamble: str = "") -> Ended:
    """Run a program whose TQ_ADDRESS is ``broker``'s.

    TimeoutError if it hangs, with its output and the stack of each of its threads.
    """
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:

        def ended(code: int) -> Ended:
            return Ended(code, _content(said), _content(printed))

        async with serving(broker) as address:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-X", "faulthandler", *options),
                *("-c", preamble + textwrap.dedent(program)),
                env={**os.environ, "TQ_ADDRESS": address},
                stdout=printed,
                stderr=said,
                start_new_session=True,
            )
            try:
                async with asyncio.timeout(PATIENCE_S):
                    code = await process.wait()
            except TimeoutError:
                os.killpg(process.pid, signal.SIGABRT)  # its faulthandler prints the stacks
                raise TimeoutError(f"it hangs: {ended(await process.wait())}") from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        return ended(code)


def _content(file: IO[bytes]) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
