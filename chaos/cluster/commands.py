"""The product's commands, run as an operator runs them."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping, Sequence

WITHIN_S = 60.0


class CommandFailedError(AssertionError):
    """A command that had to work ended with an error, or did not end."""


def clean_environment() -> dict[str, str]:
    """Our own environment without the product's variables, which must not affect a run."""
    return {key: value for key, value in os.environ.items() if not key.startswith("TQ_")}


async def run(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run our interpreter with these arguments and return what was written to standard output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean_environment(), **(environment or {})},
    )
    try:
        said, complained = await asyncio.wait_for(process.communicate(), WITHIN_S)
    except TimeoutError:
        raise CommandFailedError(f"{shlex.join(arguments)}: no end in {WITHIN_S} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise CommandFailedError(
            f"{shlex.join(arguments)}: exit code {process.returncode}\n"
            f"{said.decode()}{complained.decode()}"
        )
    return said.decode()
