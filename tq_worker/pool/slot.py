"""A place for one handler process: who sits there, who leaves it, who comes next."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tq_worker.pool.process import HandlerProcess


@dataclass(slots=True, eq=False)
class ProcessSlot:
    """The slots of one process, whichever that is at the moment."""

    slots: int
    solo: bool
    """For handlers that have a process to themselves: one slot, and nothing is held ahead."""
    process: HandlerProcess | None = None
    """Who is given tasks, once it is ready."""
    leaving: set[HandlerProcess] = field(default_factory=set)
    """Those that were relieved and have not exited."""
    coming: HandlerProcess | None = None
    """Loads its handlers; takes the slot when the present process is worn or the code is new."""
    deaths: int = 0
    """How often in a row a process died here without having finished a task."""
    restart: asyncio.TimerHandle | None = None

    def room(self, ahead: int, tasks_max: int | None) -> int:
        """How many tasks can be handed in, ``ahead`` of them to wait for a slot.

        ``tasks_max`` is how many a process is given in its life.
        """
        process = self.process
        if process is None or not process.ready:
            return 0
        # What those that leave still run is taken off, so that never more run than there are slots.
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
