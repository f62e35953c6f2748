"""Work that goes on beside the steady load: what it has to bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from chaos.context import RunContext


class Workload:
    """Calls of its own, into the same ledger, on queues of its own.

    In this order: ``start``; ``settle`` once no fault is injected any more; ``judge`` once every
    task of the cluster is terminal; ``close``, whatever happened before.
    """

    name: ClassVar[str]

    async def start(self, context: RunContext, addresses: Sequence[str], seed: int) -> None:
        """Begin; the work itself runs in tasks of the event loop."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Begin nothing new, and see to it that every task can become terminal."""

    async def judge(self, context: RunContext) -> None:
        """Look at the end: ``context.accuse`` what is wrong."""

    async def close(self) -> None:
        """End all tasks, close all connections; raise what any of them raised."""
