"""Servers and workers as processes of ours: each ends by its own process id."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

ROOT: Final = Path(__file__).resolve().parents[2]
START_S: Final = 60.0
END_S: Final = 10.0
LOG_TAIL: Final = 2_000
VERSION: Final = re.compile(r"[0-9]+(\.[0-9]+)+")
PLACES: Final = (
    "/usr/sbin",
    "/usr/local/sbin",
    "/usr/lib/rabbitmq/bin",
    "/usr/lib/postgresql/*/bin",
)
"""Where Debian puts servers that are not on everyone's PATH."""


def find(program: str) -> str | None:
    """Find a program; the newest, if several versions are installed.

    RabbitMQ's own scripts go before the wrappers on the PATH, which run only as two users.
    """
    beside = [path for place in PLACES[2:] for path in _matches(place, program)]
    if beside:
        return str(beside[-1])
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES[:2]]))


def _matches(place: str, program: str) -> list[Path]:
    found = Path("/").glob(f"{place.lstrip('/')}/{program}")
    return sorted(found, key=lambda path: [int(n) for n in path.parts if n.isdigit()])


def need(program: str) -> str:
    """Find a program that is known to be installed."""
    path = find(program)
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    return path


def as_user(user: str) -> list[str]:
    """Begin a command that root must not run itself; nothing if this process is not root."""
    if os.geteuid() != 0:
        return []
    entry = pwd.getpwnam(user)
    ids = ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--init-groups"]
    return [need("setpriv"), *ids]


def has_user(user: str) -> bool:
    """Whether the machine knows a user."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def give(folder: Path, user: str) -> None:
    """Let a user write in a folder of ours, and pass the folders above it; only root needs it."""
    if os.geteuid() == 0:
        folder.parent.chmod(0o711)
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)


def version(program: str, argument: str) -> str:
    """Return the number of a program's version."""
    path = Path(need(program)).resolve()
    if argument:
        command = [str(path), argument]
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, cwd="/"
        )
        text = answer.stdout + answer.stderr
    else:
        # RabbitMQ's own answer would start a server of names, and leave it behind.
        text = " ".join(map(str, [path, *path.parents[1].glob("lib/*-[0-9]*")]))
    found = VERSION.search(text)
    return found[0] if found else "of unknown version"


class ServerError(Exception):
    """A server did not start; the text has the end of its log."""


@dataclass(slots=True)
class Server:
    """A process of ours, the leader of a process group of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path
    ends_by: signal.Signals

    def log(self) -> str:
        """Return the end of what the process wrote."""
        return self.log_path.read_text(errors="replace")[-LOG_TAIL:]

    def check(self) -> None:
        """Raise if the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ServerError(f"{self.name} ended with code {code}:\n{self.log()}")


class Servers:
    """The processes of one system. They end with this context, on success or failure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        ends_by: signal.Signals = signal.SIGTERM,
        folder: Path | None = None,
    ) -> Server:
        """Start a process; its output goes to a file."""
        log_path = self.folder / f"{name}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=folder or self.folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        server = Server(name, process, log_path, ends_by)
        self.servers.append(server)
        return server

    def await_address(self, server: Server, address: str, within_s: float = START_S) -> None:
        """Wait until a server of ours listens."""
        host, _, port = address.rpartition(":")
        deadline_s = time.monotonic() + within_s
        while True:
            server.check()
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            if time.monotonic() > deadline_s:
                raise ServerError(f"{server.name} does not listen at {address}:\n{server.log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End all: each gets its signal, then a moment, then SIGKILL with what it started."""
        for server in reversed(self.servers):
            if server.process.poll() is None:
                server.process.send_signal(server.ends_by)
        deadline_s = time.monotonic() + END_S
        for server in reversed(self.servers):
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(max(0.0, deadline_s - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
        self.servers.clear()


@contextmanager
def python_worker(
    folder: Path, arguments: Sequence[str], environment: Mapping[str, str]
) -> Iterator[None]:
    """Run a worker in this Python, with the modules of this checkout."""
    with Servers(folder) as servers:
        server = servers.start(
            "worker", [sys.executable, "-m", *arguments], environment=environment, folder=ROOT
        )
        yield
        server.check()
