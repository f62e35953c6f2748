"""Sets and totals across tasks: what queues count, and what they handed out while paused."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from chaos.history.calls import Answer, DeleteCall, PauseCall, PurgeCall, RedriveCall
from chaos.history.facts import Facts
from chaos.history.violation import Violation
from tq.v1 import queue_service_pb2, task_pb2

COUNTED = {
    "scheduled": task_pb2.TASK_STATE_SCHEDULED,
    "pending": task_pb2.TASK_STATE_PENDING,
    "running": task_pb2.TASK_STATE_RUNNING,
    "retrying": task_pb2.TASK_STATE_RETRYING,
    "completed": task_pb2.TASK_STATE_COMPLETED,
    "failed": task_pb2.TASK_STATE_FAILED,
    "cancelled": task_pb2.TASK_STATE_CANCELLED,
}


def totals(facts: Facts) -> Iterator[Violation]:
    """Check I6 for whole queues; nothing if the cluster was not asked."""
    yield from _handed_out_while_paused(facts)
    if facts.ledger.listing is None or not facts.ledger.queues:
        return
    listed: dict[str, Counter[int]] = defaultdict(Counter)
    for task_id, state in facts.ledger.states.items():
        listed[facts.ledger.placed.get(task_id, "")][state] += 1
    for queue, stats in sorted(facts.ledger.queues.items()):
        for message in _differences(facts, queue, stats, listed[queue]):
            yield Violation("I6", f"queue {queue}: {message}")


def _differences(
    facts: Facts, queue: str, stats: queue_service_pb2.QueueStats, listed: Counter[int]
) -> Iterator[str]:
    for name, state in COUNTED.items():
        counted: int = getattr(stats, name)
        if counted != listed[state]:
            yield f"counts {counted} tasks {name}, and lists {listed[state]}"
    there = sum(listed.values())
    deleted_least, deleted_most = _changed(facts, queue, DeleteCall)
    redriven_least, redriven_most = _changed(facts, queue, RedriveCall)
    purged_least, _ = _changed(facts, queue, PurgeCall)
    ever = stats.totals
    failed = listed[task_pb2.TASK_STATE_FAILED]
    expected = {
        "submitted": (ever.submitted, there + deleted_least, there + deleted_most),
        "completed": (ever.completed, *2 * (listed[task_pb2.TASK_STATE_COMPLETED],)),
        "cancelled": (ever.cancelled, *2 * (listed[task_pb2.TASK_STATE_CANCELLED],)),
        "failed": (
            ever.failed,
            failed + deleted_least + redriven_least,
            failed + deleted_most + redriven_most,
        ),
    }
    for name, (total, least, most) in expected.items():
        if not least <= total <= most:
            range_ = f"{least:g}" if least == most else f"{least:g} to {most:g}"
            yield f"says that {total} were {name} since it began; what was seen gives {range_}"
    if purged_least > listed[task_pb2.TASK_STATE_CANCELLED]:
        cancelled = listed[task_pb2.TASK_STATE_CANCELLED]
        yield f"was told that {purged_least} were purged, and lists {cancelled} as cancelled"


def _changed(
    facts: Facts, queue: str, kind: type[PurgeCall | RedriveCall | DeleteCall]
) -> tuple[int, float]:
    """How many tasks the calls of one kind changed in a queue: at least, and at most."""
    calls: list[PurgeCall | RedriveCall | DeleteCall] = [
        call for call in facts.sweeps if call.queue == queue
    ]
    for task in facts.tasks.values():
        if task.dead_letter_calls and facts.is_in(task, queue):
            calls += task.dead_letter_calls
    counts: dict[str, int] = {}
    open_: set[str] = set()
    for call in calls:
        if not isinstance(call, kind):
            continue
        if call.answer is Answer.APPLIED:
            counts[call.request_id] = call.count
        elif call.answer is Answer.UNKNOWN:
            open_.add(call.request_id)
    least = sum(counts.values())
    return least, float("inf") if open_ - counts.keys() else least


def _handed_out_while_paused(facts: Facts) -> Iterator[Violation]:
    """Find leases that were granted between the answer to a pause and its end."""
    for queue, since_s, until_s in _pauses(facts):
        for task in facts.tasks.values():
            if not facts.is_in(task, queue):
                continue
            for lease in task.leases.values():
                began_s = [facts.claim_began_s[claim.request_id] for claim, _ in lease.granted]
                known_s = [claim.known_by_s for claim, _ in lease.granted]
                if began_s and min(began_s) > since_s and min(known_s) < until_s:
                    yield Violation(
                        "I6",
                        f"task {task.task_id}: token {lease.token} was granted while its queue"
                        f" {queue} was paused",
                        task.task_id,
                    )


def _pauses(facts: Facts) -> Iterator[tuple[str, float, float]]:
    """Each queue, with the times between which it was certainly paused."""
    calls: dict[str, list[PauseCall]] = defaultdict(list)
    for call in facts.pauses:
        if call.answer is not Answer.REFUSED:
            calls[call.queue].append(call)
    for queue, changes in calls.items():
        changes.sort(key=lambda call: call.began_s)
        for index, call in enumerate(changes):
            # Only a call that ends the pause matters: another, late pause changes nothing.
            earlier = [
                one for one in changes[:index] if not one.paused and one.known_by_s > call.began_s
            ]
            if call.paused and call.answer is Answer.APPLIED and not earlier:
                resumed = (one.began_s for one in changes[index + 1 :] if not one.paused)
                yield queue, call.known_by_s, min(resumed, default=float("inf"))
