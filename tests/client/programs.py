"""Separate programs that use the client, to test how they fork and how they end."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
from dataclasses import dataclass

from tests.client.fake_broker import FakeBroker, serving
from tests.patience import PATIENCE_S


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    code: int
    said: str
    """The output on standard error."""


async def run(program: str, broker: FakeBroker, *options: str, preamble: str = "") -> Ended:
    """Run a program whose TQ_ADDRESS is ``broker``'s; TimeoutError if it hangs."""
    async with serving(broker) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *options, "-c", preamble + textwrap.dedent(program)),
            env={**os.environ, "TQ_ADDRESS": address},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
    assert process.returncode is not None
    return Ended(process.returncode, said.decode())
