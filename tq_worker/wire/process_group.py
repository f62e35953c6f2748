"""The process group of a handler process and all that its handlers start; it ends as a whole."""

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
"""Waits for the end of its input, which comes when the worker ends, and then kills its group. It
ignores the signals that handlers send to their group, as by `kill 0`."""


class Group:
    """The group that a handler process leads.

    If the worker dies, the kernel kills the handler process (PDEATHSIG), but not its descendants.
    So a shell in the group waits for that and kills them. A process that leaves the group, for
    example by setsid, is out of reach.
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
        """The pids of this process's own children in the group, without the leader."""
        return [] if self._warden is None else [self._warden.pid]

    def kill(self) -> None:
        """Kill every process in the group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pgid, signal.SIGKILL)

    def end(self) -> None:
        """Kill every process that remains in the group; call it before reaping the leader.

        Until then no other group can have its number.
        """
        self.kill()
        os.close(self._pipe)
        if self._warden is not None:
            # If the shell was just starting, it may have missed the signal: then it kills itself.
            self._warden.wait()


def leave_and_end_group() -> None:
    """Kill what handlers have started; called by a group's leader before it exits.

    The leader first moves to its parent's group, so that its exit code can still say why. If it
    cannot, the parent and the shell kill the group.
    """
    pgid = os.getpgid(0)
    if pgid != os.getpid():
        return  # it leads no group: in a test, for example
    try:
        others = os.getpgid(os.getppid())
        if others:  # else it is of another namespace
            os.setpgid(0, others)
    except OSError:
        return
    if os.getpgid(0) != pgid:
        with contextlib.suppress(OSError):
            os.killpg(pgid, signal.SIGKILL)
