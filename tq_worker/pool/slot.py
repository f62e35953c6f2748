"""The place of one handler process, of its leaving predecessors and its successor."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tq_worker.pool.process import HandlerProcess


@dataclass(slots=True, eq=False)
class ProcessSlot:
    """The slots of one process, which may be replaced."""

    slots: int
    solo: bool
    """For handlers that have a process to themselves: one slot, and no prefetch."""
    process: HandlerProcess | None = None
    """The process that takes tasks, once it is ready."""
    leaving: set[HandlerProcess] = field(default_factory=set)
    """Relieved processes that have not exited."""
    coming: HandlerProcess | None = None
    """The successor: loads its handlers, and takes over if ``process`` is worn or has old code."""
    deaths: int = 0
    """How many processes in a row died here without finishing a task."""
    restart: asyncio.TimerHandle | None = None

    def room(self, ahead: int, tasks_max: int | None) -> int:
        """How many tasks can be handed in, including ``ahead`` that wait for a slot.

        ``tasks_max`` is the most tasks that one process takes.
        """
        process = self.process
        if process is None or not process.ready:
            return 0
        # Subtract the tasks of leaving processes, so that no more tasks run than there are slots.
        elsewhere = sum(len(each.outstanding) for each in self.leaving)
        waiting = 0 if self.solo or elsewhere else ahead
        room = self.slots + waiting - elsewhere - len(process.outstanding)
        if tasks_max is not None:
            room = min(room, tasks_max - process.handed_in)
        return max(0, room)

    def everyone(self) -> list[HandlerProcess]:
        """Return all its processes."""
        found = [*self.leaving, self.process, self.coming]
        return [each for each in found if each is not None]
