"""Is there an order of all operations that explains every answer and respects real time?

The search of Wing and Gong ("Testing and Verifying Concurrent Objects", J. Parallel Distrib.
Comput. 17, 1993) with Lowe's memory of configurations seen ("Testing for linearizability",
Concurrency and Computation 29(4), 2017), as Knossos and Porcupine have it. The model is
nondeterministic, so a configuration holds the set of all states that the task may be in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chaos.history.model import TaskState, with_unseen
from chaos.history.operations import Operation

CONFIGURATIONS_MAX = 200_000
"""A search that needs more is given up and reported as ``exhausted``."""

States = frozenset[TaskState]


@dataclass(frozen=True, slots=True)
class Stuck:
    """No order explains the answers; this is how far the best try came."""

    placed: int
    possible: States
    """The states that the task may have been in by then."""
    refused: tuple[Operation, ...]
    """The operations that had to come next, and cannot."""
    exhausted: bool = False
    """The search was given up: nothing is proven."""


@dataclass(slots=True)
class _Frame:
    """A configuration, and the choices still to try from it."""

    placed: int
    """One bit for each operation."""
    states: States
    choices: list[tuple[int, States]]


def explain(operations: Sequence[Operation], start: TaskState | None = None) -> Stuck | None:
    """Search for an order; None if there is one."""
    ordered = sorted(operations, key=lambda operation: operation.began_s)
    certain = sum(1 << index for index, one in enumerate(ordered) if one.certain)
    first = with_unseen(frozenset({start or TaskState()}))
    seen: set[tuple[int, States]] = set()
    best = _Frame(0, first, [])
    stack = [_Frame(0, first, _choices(ordered, 0, first))]
    while stack:
        frame = stack[-1]
        if frame.placed & certain == certain:
            return None
        if not frame.choices:
            stack.pop()
            continue
        index, states = frame.choices.pop()
        placed = frame.placed | 1 << index
        if (placed, states) in seen:
            continue
        seen.add((placed, states))
        if len(seen) > CONFIGURATIONS_MAX:
            return _stuck(ordered, best, exhausted=True)
        deeper = _Frame(placed, states, _choices(ordered, placed, states))
        if (placed & certain).bit_count() > (best.placed & certain).bit_count():
            best = deeper
        stack.append(deeper)
    return _stuck(ordered, best)


def _next(ordered: Sequence[Operation], placed: int) -> list[int]:
    """The operations that may come next: each began before any other remaining one was answered."""
    left = [index for index in range(len(ordered)) if not placed >> index & 1]
    horizon_s = min(ordered[index].known_by_s for index in left if ordered[index].certain)
    return [index for index in left if ordered[index].began_s <= horizon_s]


def _choices(ordered: Sequence[Operation], placed: int, states: States) -> list[tuple[int, States]]:
    """Each operation that can come next, with the states it leads to; the likeliest last."""
    if all(placed >> index & 1 or not one.certain for index, one in enumerate(ordered)):
        return []
    found = []
    for index in _next(ordered, placed):
        operation = ordered[index]
        after = frozenset(later for state in states for later in operation.apply(state))
        if not after:
            continue
        closed = with_unseen(after)
        if closed == states and operation.only_looks:
            # It agrees with every possible state and nothing depends on it: it can be placed here.
            return [(index, closed)]
        found.append((index, closed))
    # Try first what was answered first, and last what may never have happened.
    found.sort(key=lambda choice: (ordered[choice[0]].certain, -ordered[choice[0]].known_by_s))
    return found


def _stuck(ordered: Sequence[Operation], best: _Frame, *, exhausted: bool = False) -> Stuck:
    refused = tuple(
        ordered[index] for index in _next(ordered, best.placed) if ordered[index].certain
    )
    return Stuck(best.placed.bit_count(), best.states, refused, exhausted)
