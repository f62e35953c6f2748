"""The interface of a workload: work that runs beside the steady load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from chaos.context import RunContext


class Workload:
    """Calls of its own, into the same ledger, on queues of its own.

    The calls come in this order: ``start``; ``settle`` after the last fault; ``judge`` once every
    task of the cluster is terminal; ``close`` in any case.
    """

    name: ClassVar[str]

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        """Begin; the work itself runs in tasks of the event loop."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Begin nothing new, and make sure that every task can become terminal."""

    async def judge(self, context: RunContext) -> None:
        """Check the end state: report what is wrong with ``context.accuse``."""

    async def close(self) -> None:
        """End all tasks, close all connections; raise what any of them raised."""
