"""Two processes on copies of one disk: the one that comes back after the other is refused.

A copied data directory has its original's name, incarnation and votes. If both ran, one could vote
for one leader and the other for another in the same term. So each process draws a run as it starts,
and sends it in its Hello. A restarted process never sends its old run again: if a run comes back
after a later one of the same disk, two processes run side by side. Which of the two is the copy
cannot be told. The run is barred from then on, by this node and by its peers, which learn of it
from this node's Hello; a restarted process has a new run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from tq.internal.v1 import peer_pb2
from tq_cluster.raft.bounds import RUNS_MAX, WORD_CHARS_MAX

EARLIER_MAX: Final = 16
"""Runs kept per disk. A forgotten one counts as new, and makes the present one an earlier one."""
DISKS_MAX: Final = 32


class Copies:
    """What one node knows of the processes on its peers' disks."""

    def __init__(self, own_run: str) -> None:
        self.own_run = own_run
        self._runs: OrderedDict[str, list[str]] = OrderedDict()
        """By incarnation the runs that introduced themselves, the present one last."""
        self._barred: OrderedDict[str, None] = OrderedDict()

    @property
    def barred(self) -> list[str]:
        """The runs that peers refuse."""
        return list(self._barred)

    def is_barred(self, run: str) -> bool:
        return run in self._barred

    def came_back(self, hello: peer_pb2.Hello) -> bool:
        """Whether the sender's run introduced itself before the present one of its disk did."""
        return hello.run in self._runs.get(hello.incarnation, ())[:-1]

    def welcomed(self, hello: peer_pb2.Hello) -> None:
        """The run is the present one of its disk."""
        if not hello.run:
            return  # a broker of an earlier version sends none
        runs = self._runs.setdefault(hello.incarnation, [])
        if not runs or runs[-1] != hello.run:
            runs.append(hello.run)
            del runs[:-EARLIER_MAX]
        self._runs.move_to_end(hello.incarnation)
        while len(self._runs) > DISKS_MAX:
            self._runs.popitem(last=False)

    def bar(self, runs: Iterable[str]) -> bool:
        """Refuse these runs from now on; return whether any of them is new."""
        news = [
            run for run in runs if run and len(run) <= WORD_CHARS_MAX and run not in self._barred
        ]
        for run in news[:RUNS_MAX]:
            self._barred[run] = None
            if len(self._barred) > RUNS_MAX:
                self._barred.popitem(last=False)
        return bool(news)
