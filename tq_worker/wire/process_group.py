"""A handler process and all that its handlers start: one process group, which ends with it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from typing import Final

_logger = logging.getLogger(__name__)

_SHELL: Final = "/bin/sh"
_UNTIL_NOBODY_LISTENS: Final = "trap '' HUP INT QUIT TERM USR1 USR2 ALRM; read -r _; kill -9 0"
"""Waits for the end of its input, which the worker's own end brings, and then kills its group. What
handlers send to their group, as by `kill 0`, does not end it."""


class Group:
    """The group that a handler process leads.

    The kernel kills the process itself if the worker dies (PDEATHSIG), but nobody below it. So a
    shell waits in the group for that. What leaves the group, by setsid for one, is out of reach.
    """

    def __init__(self, leader_pid: int) -> None:
        self._pgid = leader_pid
        self._warden: subprocess.Popen[bytes] | None = None
        reading, self._pipe = os.pipe()
        try:
            self._warden = subprocess.Popen(  # noqa: S603 - as it stands there
                [_SHELL, "-c", _UNTIL_NOBODY_LISTENS], stdin=reading, process_group=leader_pid
            )
        except OSError as error:
            _logger.warning(
                "what handlers start may outlive this worker, if that is killed",
                extra={"error": str(error)},
            )
        finally:
            os.close(reading)

    @property
    def pids(self) -> list[int]:
        """Those in it that are this process's own children, besides the leader."""
        return [] if self._warden is None else [self._warden.pid]

    def kill(self) -> None:
        """Kill all that is in it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pgid, signal.SIGKILL)

    def end(self) -> None:
        """Kill all that is left in it; to be called before its leader is reaped.

        Until then the number is nobody else's.
        """
        self.kill()
        os.close(self._pipe)
        if self._warden is not None:
            # It may have missed the signal, if it was just coming: then it kills by itself.
            self._warden.wait()


def leave_and_end_group() -> None:
    """Kill what handlers have started; called by a group's leader that is about to exit.

    It goes to its parent's group first, so that its exit code can still say why. If it cannot,
    that is left to the parent, and to the shell.
    """
    pgid = os.getpgid(0)
    if pgid != os.getpid():
        return  # nobody gave it a group: a test, for one
    try:
        others = os.getpgid(os.getppid())
        if others:  # else it is of another namespace
            os.setpgid(0, others)
    except OSError:
        return
    if os.getpgid(0) != pgid:
        with contextlib.suppress(OSError):
            os.killpg(pgid, signal.SIGKILL)
