"""One side of a pair: a process that runs `driver.py` with the packages of a checkout."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.regression.software import LOG_TAIL_CHARS, Software
from chaos.cluster.ports import HeldPorts

DRIVER = Path(__file__).with_name("driver.py")
BROKERS = 3
ANSWER_S = 180.0
"""Longer than the driver itself waits for anything."""
END_S = 20.0


class SideError(Exception):
    """A side did not start, or did not answer."""


class Side:
    """A cluster of a checkout with its worker and caller, below ``folder``."""

    def __init__(self, name: str, software: Software, folder: Path) -> None:
        self._name = name
        self._software = software
        self._folder = folder
        self._log_path = folder / "driver.log"
        self._ports = HeldPorts(2 * BROKERS)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._folder.mkdir()
        with self._log_path.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(str(self._software.python), "-P", str(DRIVER)),
                *("--checkout", str(self._software.root), "--folder", str(self._folder)),
                *("--addresses", ",".join(self._ports.addresses)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._software.environment,
                cwd=self._folder,
                # Ctrl-C is for this process, which then ends the group.
                process_group=0,
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            if kind is None:
                # It waits for what it started, so that `Bystanders` counts that as ours.
                with suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), END_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            self._ports.give_back()

    async def ready(self) -> None:
        """Wait until the cluster is up and warm."""
        await self._answer()

    async def measure(self, workload: str, tasks: int) -> dict[str, float]:
        """Run a workload; return the processor seconds of each group of processes."""
        assert self._process is not None
        assert self._process.stdin is not None
        asked = json.dumps({"workload": workload, "tasks": tasks})
        self._process.stdin.write(asked.encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, float]:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_S)
        except TimeoutError:
            text = f"{self._title} gave no answer in {ANSWER_S:g} s{self._logs()}"
            raise SideError(text) from None
        if not line.endswith(b"\n"):
            raise SideError(f"{self._title} ended{self._logs()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    @property
    def _title(self) -> str:
        return f"the {self._name}, {self._software.title},"

    def _logs(self) -> str:
        """Return the ends of what its processes wrote."""
        return "".join(
            f"\n{path.name}: {text[-LOG_TAIL_CHARS:]}"
            for path in sorted(self._folder.glob("*.log"))
            if (text := path.read_text(errors="replace").strip())
        )
