"""The interface of a workload: work that runs beside the steady load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from chaos.history.facts import Facts
from chaos.history.violation import Violation

if TYPE_CHECKING:
    from chaos.context import RunContext


class Workload:
    """Calls of its own, into the same ledger, on queues of its own, and the promise they test.

    The calls come in this order: ``start``; ``settle`` after the last fault; ``judge`` once every
    task of the cluster is terminal; ``violations`` on the complete history; ``close`` in any case.
    """

    name: ClassVar[str]
    promise: ClassVar[str] = ""
    """The promise that ``judge`` and ``violations`` check, in one sentence. Empty: it has none
    besides those that every history is checked for.
    """

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        """Begin; the work itself runs in tasks of the event loop."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Begin nothing new, and make sure that every task can become terminal."""

    async def judge(self, context: RunContext) -> None:
        """Ask the cluster for its end state: report what is wrong with ``context.accuse``."""

    def violations(self, facts: Facts) -> Iterator[Violation]:
        """Check the history of all calls, also those of the steady load; no call, no clock."""
        del facts
        yield from ()

    async def close(self) -> None:
        """End all tasks, close all connections; raise what any of them raised."""
