"""What an operation sets off beyond itself: a little of it at once, the rest in slices.

The end of one task may release, or end, thousands of others. The operation that ends it begins a
continuation. After each operation, what was begun goes on within a small bound; what is left then
is written down as a row, in the same entry. From there the leader does a slice after the other, as
timed work. A slice and its new cursor are one entry, so nothing is done twice or left out when the
leader changes.

A slice that sets off more begins another continuation; nothing recurses. Rows take turns: each goes
to the back after its slice, so that small ones do not wait for a large one.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from typing import Final, TypeAlias

from tq.internal.v1 import state_pb2
from tq_cluster.core.kernel.audit import Audited
from tq_cluster.core.kernel.batch import Batch, Space
from tq_cluster.core.kernel.feature import Feature, Instants, Slice, TimedWork, decides
from tq_cluster.core.model.operations import Continue, Done, Steps
from tq_cluster.core.rows import tables
from tq_cluster.core.rows.scope import Scope
from tq_cluster.core.rows.view import View

CONTINUATIONS_VERSION: Final = 4

INLINE_ITEMS: Final = 16
"""How many items of what an operation set off are done in its own entry: about 64 rows."""
SLICE_ITEMS: Final = 64
"""How many items a continuation does in one turn."""

Kind: TypeAlias = state_pb2.ContinuationRow.Kind.ValueType


def begin(space: Space, kind: Kind, owner: int, generation: int) -> None:
    """Begin a continuation; see `state.proto` for its owner and generation."""
    row = state_pb2.ContinuationRow(kind=kind, owner=owner, generation=generation)
    space.batch.begun.append((space, row))


def go_on_inline(batch: Batch) -> Generator[None, None, None]:
    """Go on with what an operation began, within the bound, and write down the rest."""
    left = INLINE_ITEMS
    while batch.begun:
        space, row = batch.begun.popleft()
        if left > 0:
            progress = yield from batch.continuations[row.kind](space, row, left)
            left -= max(1, progress.items)
            if progress.complete:
                continue
        _put(space, row)
        yield


def decide_continue(space: Space, operation: Continue) -> Steps:
    """Do a slice of each of the first continuations, about ``items_max`` items in all."""
    items = 0
    while items < operation.items_max:
        first = _in_turn(space.workspace, space.prefix, operation.passed_over, 1)
        if not first:
            break
        [(key, value)] = first
        row = state_pb2.ContinuationRow.FromString(value)
        slice_ = min(operation.items_max - items, SLICE_ITEMS)
        progress = yield from space.batch.continuations[row.kind](space, row, slice_)
        items += max(1, progress.items)
        space.workspace.delete(tables.CONTINUATIONS, key)
        space.batch.changed = True
        if not progress.complete:
            _put(space, row)
        # Written down, not gone on with: so a row at fault fails in its own turn, alone.
        while space.batch.begun:
            _put(*space.batch.begun.popleft())
        yield
    more = bool(_in_turn(space.workspace, space.prefix, operation.passed_over, 1))
    return Done(more=operation.more or more, items=items)


def _put(space: Space, row: state_pb2.ContinuationRow) -> None:
    """Put a continuation at the back."""
    space.counters.turn += 1
    key = tables.number_key(space.prefix, space.counters.turn)
    space.workspace.put(tables.CONTINUATIONS, key, row.SerializeToString(deterministic=True))
    space.batch.changed = True


def _in_turn(
    view: View, prefix: bytes, passed_over: Collection[int], limit: int
) -> list[tuple[bytes, bytes]]:
    """Return the rows of the first continuations, but for those passed over."""
    most = limit + len(passed_over)
    found = view.scan(tables.CONTINUATIONS, prefix, tables.end_of(prefix), limit=most)
    return [each for each in found if tables.split_number(each[0]) not in passed_over][:limit]


def _first(scope: Scope[View], _at: Instants, passed_over: Collection[int]) -> int | None:
    for key, _ in _in_turn(scope.view, scope.prefix, passed_over, 1):
        return tables.split_number(key)
    return None


def _next_in_ms(scope: Scope[View], _at: Instants) -> int | None:
    return 0 if _in_turn(scope.view, scope.prefix, (), 1) else None


def _operation(work: Slice) -> Continue:
    return Continue(
        items_max=work.items_max,
        passed_over=work.passed_over,
        more=work.more,
        caller=work.caller,
    )


def _audit(state: Audited) -> Iterator[str]:
    for key in state.rows(tables.CONTINUATIONS):
        turn = tables.split_number(key)
        if turn > state.counters.turn:
            yield f"continuation {turn} is above the counter, {state.counters.turn}"


FEATURE: Final = Feature(
    name="continuations",
    since=CONTINUATIONS_VERSION,
    decisions=(decides(Continue, decide_continue),),
    timed_work=(
        TimedWork(kind="continuations", first=_first, next_in_ms=_next_in_ms, operation=_operation),
    ),
    audits=(_audit,),
)
