"""What a leader reports to metrics and logs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tq_cluster.core.model.events import TaskEvent
from tq_cluster.core.model.queue_moves import Tally
from tq_cluster.leader.sampler import Sample


@dataclass(frozen=True, slots=True)
class LeaderHooks:
    """Called on the event loop: each must be brief, and must not raise."""

    decide: Callable[[float], None] = lambda _seconds: None
    """Seconds that deciding one batch took."""
    commit: Callable[[float], None] = lambda _seconds: None
    """Seconds from proposing one entry to applying it."""
    confirm: Callable[[float], None] = lambda _seconds: None
    """Seconds that confirming leadership took."""
    begun: Callable[[], None] = lambda: None
    """This node begins to serve as the leader."""
    counted: Callable[[Sequence[Tally]], None] = lambda _tallies: None
    """The effects of an entry on tasks, once it is applied here."""
    event: Callable[[TaskEvent], None] | None = None
    """What became of one task, once it is applied here. None: events are not recorded."""
    housekept: Callable[[str, int], None] = lambda _kind, _items: None
    """Kind and amount of the leader's own work that was done."""
    undecidable: Callable[[str], None] = lambda _kind: None
    """An operation of the leader's own, of this kind, cannot be decided."""
    differed: Callable[[], None] = lambda: None
    """Members were found to hold different states."""
    sampled: Callable[[Sample | None], None] = lambda _take_samples: None
    """Queue contents and workers, a slice at a time; None: this node no longer leads."""
