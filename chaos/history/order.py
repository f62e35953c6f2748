"""A task's calls in the order of its tokens, compared with real time.

A task's history is a chain: created, then for each lease in token order granted, held, ended. Every
call belongs to one phase of that chain and took effect at some instant between its start and its
answer. Instants that respect the chain exist exactly when no call was answered before a call of an
earlier phase had even begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

from chaos.history.calls import ReadCall, ReportStatus
from chaos.history.facts import Facts, LeaseFacts, TaskFacts
from tq.v1 import task_pb2


class Step(IntEnum):
    """The steps of one lease."""

    GRANTED = 1
    HELD = 2
    ENDED = 3
    AFTER = 4


@dataclass(frozen=True, slots=True)
class _Effect:
    """An effect between ``began_s`` and ``known_by_s``, at ``phase`` of the chain."""

    phase: tuple[int, int]
    began_s: float
    known_by_s: float
    what: str


def contradictions(facts: Facts, task: TaskFacts) -> Iterator[str]:
    """Yield each place where the order of the chain and real time disagree."""
    effects = sorted(_effects(facts, task), key=lambda effect: effect.phase)
    latest: _Effect | None = None
    for _, group in groupby(effects, key=lambda effect: effect.phase):
        phase = list(group)
        for effect in phase:
            if latest is not None and effect.known_by_s < latest.began_s:
                start = facts.ledger.started_s
                yield (
                    f"{effect.what} was answered at {effect.known_by_s - start:.3f} s, before"
                    f" {latest.what}, which comes first, began at {latest.began_s - start:.3f} s"
                )
        newest = max(phase, key=lambda effect: effect.began_s)
        if latest is None or newest.began_s > latest.began_s:
            latest = newest


def _effects(facts: Facts, task: TaskFacts) -> Iterator[_Effect]:
    calls = [call for request_id in task.request_ids for call in facts.submits[request_id]]
    if calls:
        began_s = min(call.began_s for call in calls)
        yield _Effect((0, 0), began_s, task.acknowledged_by_s, "the submit")
    for lease in task.leases.values():
        yield from _lease_effects(facts, lease)
    for read in task.reads:
        if read.task is not None:
            yield _Effect(_phase_of(read.task), read.began_s, read.known_by_s, _read_name(read))


def _lease_effects(facts: Facts, lease: LeaseFacts) -> Iterator[_Effect]:
    token = lease.token
    if lease.granted:
        # The answer that was seen may repeat what an earlier sending was granted.
        began_s = min(facts.claim_began_s[claim.request_id] for claim, _ in lease.granted)
        known_by_s = min(claim.known_by_s for claim, _ in lease.granted)
        yield _Effect((token, Step.GRANTED), began_s, known_by_s, f"the claim of token {token}")
    for beat, renewal in lease.renewals:
        if renewal.renewed:
            what = f"the renewal of token {token}"
            yield _Effect((token, Step.HELD), beat.began_s, beat.known_by_s, what)
        else:
            yield _gone(token, beat.known_by_s)
    accepted = lease.accepted()
    if accepted:
        # A repeated report may have been recorded by the first sending of it.
        began_s = min(call.began_s for call in lease.reports if call.ending == accepted[0].ending)
        known_by_s = min(call.known_by_s for call in accepted)
        what = f"the {accepted[0].ending.value} with token {token}"
        yield _Effect((token, Step.ENDED), began_s, known_by_s, what)
    for call in lease.reports:
        if call.status == ReportStatus.STATUS_LEASE_LOST:
            yield _gone(token, call.known_by_s)


def _gone(token: int, known_by_s: float) -> _Effect:
    """A "lease lost" may be answered at any time after the lease ended: only too early is wrong."""
    what = f'the "lease lost" for token {token}'
    return _Effect((token, Step.AFTER), float("-inf"), known_by_s, what)


def _phase_of(task: task_pb2.Task) -> tuple[int, int]:
    if not task.attempts:
        return (0, 1)
    last = task.attempts[-1]
    running = last.end == task_pb2.Attempt.END_RUNNING
    return (last.token, Step.HELD if running else Step.AFTER)


def _read_name(read: ReadCall) -> str:
    assert read.task is not None
    state = task_pb2.TaskState.Name(read.task.state).removeprefix("TASK_STATE_")
    return f"a read of {state} after {len(read.task.attempts)} attempts"
