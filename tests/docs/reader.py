"""A reader of the documents: a folder, a shell, and background programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]


class Background:
    """A command that runs until it is stopped; its output is collected."""

    def __init__(self, command: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.command = command
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", f"exec {command}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._said: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def await_line(self, part: str) -> None:
        """Wait until the output has a line with ``part``."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self._has_said(part), PATIENCE_S)
            assert self._has_said(part), f"{self.command} did not say {part!r}: {self.said()}"

    def said(self) -> str:
        """The output so far."""
        return "".join(self._said)

    def stop(self) -> int:
        """Send Ctrl-C; return the exit code."""
        self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._reader.join()

    def _has_said(self, part: str) -> bool:
        return any(part in line for line in self._said)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._said.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


class Reader:
    """Types commands in a folder, with the project's on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = Path(sys.executable).parent
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TQ_")}
        self.environment = {
            **kept,
            "HOME": str(folder),
            "PATH": f"{tools}:{os.environ['PATH']}",
        }

    def type(self, command: str, *, inside: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in the folder or in ``inside``."""
        return subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=inside or self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def leave_running(self, command: str, *, until: str) -> Background:
        """Start a command that does not end, and wait until its output has ``until``."""
        started = Background(command, self.folder, self.environment)
        try:
            started.await_line(until)
        except BaseException:
            started.stop()
            raise
        return started
