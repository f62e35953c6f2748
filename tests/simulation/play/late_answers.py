"""Leadership leaves a node and comes back to it, while the answers to it are delayed.

An answer of the earlier leadership then arrives in the later one, about entries that are gone.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from tests.simulation.world.host import Machine
from tests.simulation.world.network import ModelledNetwork
from tests.simulation.world.virtual_loop import HostLoop, VirtualLoop

FIRST_LEADERSHIP_S = (0.03, 0.1)
"""How long the old leader goes on while only its heir receives its messages."""
FOR_S = (1.5, 3.0)
"""After this all ways are free again in any case. Less than the timeout of a silent connection."""
LOOK_EVERY_S = 0.01


class Victim(Protocol):
    """The cluster of the fault."""

    loop: VirtualLoop
    network: ModelledNetwork

    @property
    def machines(self) -> Sequence[Machine]: ...

    def note(self, what: str) -> None: ...


class _Leadership(enum.Enum):
    """The stages of the leadership."""

    BEFORE = enum.auto()
    """The old leader's: its entry reaches the heir alone."""
    FIRST = enum.auto()
    """The heir's: its messages reach only the old leader, whose answers are delayed. So both hold a
    tail that no other node has."""
    BETWEEN = enum.auto()
    """Another's, elected by all others: it replaces the heir's tail, and hands over to it."""
    SECOND = enum.auto()
    """The heir's again: now the late answers arrive."""
    OVER = enum.auto()


class LateAnswers:
    """Closes ways and opens them again, as one leadership follows the other.

    The nodes decide which of them is elected and when: often the result differs, and that is also a
    valid history.
    """

    def __init__(
        self,
        victim: Victim,
        draw: random.Random,
        leader: Machine,
        hand_over: Callable[[Machine, str], None],
    ) -> None:
        self._victim = victim
        self._draw = draw
        self._leader = leader
        self.heir = draw.choice([host for host in victim.machines if host is not leader])
        self._late = (leader.name, self.heir.name)
        self._hand_over = hand_over
        self._leadership = _Leadership.BEFORE
        self._closed: set[tuple[str, str]] = set()
        self._stalled: HostLoop | None = None

    def begin(self) -> None:
        """Part the leader and its heir from the others."""
        for machine in self._victim.machines:
            machine.on_lead.append(self._elected)
        self._close_all_but(self._leader, self.heir)
        loop = self._victim.loop
        loop.call_later(self._draw.uniform(*FIRST_LEADERSHIP_S), self._unseat)
        loop.call_later(self._draw.uniform(*FOR_S), self._end)

    def _unseat(self) -> None:
        """Pause the leader. Its heir, which loses the connection, notices that first."""
        self._heed_peace()
        leader, heir = self._leader, self.heir
        if self._leadership is _Leadership.BEFORE and leader.up and not leader.paused:
            self._victim.note(f"{leader.name} stands still and loses {heir.name}")
            self._stalled = leader.host_loop
            self._stalled.pause()
            self._victim.network.break_links(leader.name, heir.name)

    def _wake(self) -> None:
        if self._stalled is not None:
            self._stalled.resume()
            self._stalled = None

    def _end(self) -> None:
        self._leadership = _Leadership.OVER
        self._wake()
        for machine in self._victim.machines:
            machine.on_lead.remove(self._elected)
        self._open(set(self._closed))

    def _elected(self, winner: Machine) -> None:
        # Not within the winner's own code. None of its messages arrives before this.
        self._victim.loop.call_soon(self._next_leadership, winner)

    def _next_leadership(self, winner: Machine) -> None:
        self._heed_peace()
        self._wake()
        heir, leader = self.heir, self._leader
        if winner is heir and self._leadership is _Leadership.BEFORE:
            self._leadership = _Leadership.FIRST
            self._close_all_but(heir, leader)
            self._hold_answers()
        elif winner not in (heir, leader) and self._leadership is _Leadership.FIRST:
            self._leadership = _Leadership.BETWEEN
            self._open(self._closed - {self._late})
            self._close_all_but(winner, heir)
            self._hand_over(winner, heir.name)
        elif winner is heir and self._leadership in (_Leadership.FIRST, _Leadership.BETWEEN):
            self._leadership = _Leadership.SECOND
            self._open({self._late})
            others = [host for host in self._victim.machines if host not in (heir, leader)]
            self._close_all_but(heir, self._draw.choice(others))

    def _hold_answers(self) -> None:
        """Delay the old leader's answers once the two are connected again."""
        self._heed_peace()
        if self._leadership is not _Leadership.FIRST or not self.heir.up:
            return
        if self.heir.replica.status().peers[self._leader.name].connected:
            self._close(self._late)
        else:
            self._victim.loop.call_later(LOOK_EVERY_S, self._hold_answers)

    def _heed_peace(self) -> None:
        """Stop if another step has healed the network: it must stay healed."""
        if self._closed.isdisjoint(self._victim.network.conditions.blocked):
            self._leadership = _Leadership.OVER

    # ------------------------------------------------------------------ ways

    def _close_all_but(self, source: Machine, target: Machine) -> None:
        self._victim.note(f"what {source.name} sends reaches {target.name} alone")
        for machine in self._victim.machines:
            if machine not in (source, target):
                self._close((source.name, machine.name))

    def _close(self, way: tuple[str, str]) -> None:
        self._closed.add(way)
        self._victim.network.block(*way)

    def _open(self, ways: set[tuple[str, str]]) -> None:
        for way in sorted(ways & self._closed):
            self._closed.discard(way)
            self._victim.network.unblock(*way)
