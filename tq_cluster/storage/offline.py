"""Decide over a state that no node serves: the changes of a restore, before there is a log."""

from __future__ import annotations

import random

from tq.internal.v1 import log_pb2
from tq_cluster.core.decide import decide
from tq_cluster.core.model.operations import Done, Operation
from tq_cluster.core.model.types import TimestampMs
from tq_cluster.errors import FatalError
from tq_cluster.storage.apply import ENTRY_FORMAT
from tq_cluster.storage.store import Store

_NO_CHANCE = random.Random(0)
"""No decision here draws: every node has to reach the same state."""


def decide_offline(store: Store, operation: Operation, now_ms: int) -> Done:
    """Decide one operation, and apply it as the next entry. Not durable before a commit."""
    applied = store.applied
    workspace = store.workspace()
    decision = decide([operation], TimestampMs(now_ms), workspace, _NO_CHANCE)
    entry = log_pb2.Entry(
        format=ENTRY_FORMAT,
        decided_term=applied.term,
        base_index=applied.index,
        now_ms=now_ms,
        tables=workspace.tables(),
    )
    [outcome] = decision.outcomes
    took_effect = store.apply(applied.index + 1, applied.term, entry.SerializeToString())
    if not isinstance(outcome, Done) or not took_effect:
        raise FatalError(f"{operation} over {applied} came to {outcome}")
    return outcome
