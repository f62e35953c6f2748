"""A varied story of a queue, and the digest of the entries that it leads to."""

from __future__ import annotations

import hashlib
import random
import sys

from tests.core.lone_queue import LoneQueue, at, instant, spec
from tq_cluster.storage.store import Store


def digest_of_a_story(store: Store | None = None) -> str:
    """A digest of every entry that a varied story leads to."""
    queue = LoneQueue(draw=random.Random(11), audited=False, store=store)
    for step in range(40):
        labels = {f"k{n}": str(n) for n in range(12)}
        queue.submitted(
            spec(labels=labels, queue=f"q{step % 3}", priority=step % 4, max_attempts=2),
            spec(queue="q0", run_at=instant(queue.now_ms + 500), expire_at=at(90_000)),
            request_id=f"r{step}",
        )
        for task in queue.claimed(3, queues=["q2", "q0", "q1"])[:2]:
            if step % 2:
                queue.fail(task)
            else:
                queue.complete(task, b"x", submit=[spec(labels=labels)])
        queue.wait(2_500)
    digest = hashlib.sha256()
    for entry in queue.entries:
        digest.update(entry)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(digest_of_a_story() + "\n")
