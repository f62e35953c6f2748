"""F29: an operator edits a node's file, and starts the node with it."""

from __future__ import annotations

import random

from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis, Transport
from chaos.nemeses.on_disks import await_end
from chaos.nemeses.starve import broker

REFUSED = 2
"""The exit code of a broker whose file contradicts its disk."""


class EditedFiles(Nemesis):
    """A follower's file names other members than its disk: it must refuse to start.

    Two nodes that acknowledge apart from each other would show in the history, because the load
    calls all nodes.
    """

    name = "edited-files"
    faults = ("F29",)
    summary = "followers are started with files that leave members out, add some, swap names"
    transports = frozenset({Transport.PROCESSES})
    hold_s = (0.0, 0.2)
    alone = True
    excuses = ("the node stops",)

    def __init__(self) -> None:
        self._edited: list[str] = []

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        cluster = context.cluster
        leader = (await cluster.await_leader(self.within_s)).node_id
        node_id = draw.choice([name for name in cluster.nodes if name != leader])
        node = broker(context, node_id)
        edits = [
            ("itself alone", [node_id]),
            ("two of three", sorted([node_id, leader])),
            ("five of three", [*cluster.nodes, "n8", "n9"]),
            ("another in its peer's place", [name for name in cluster.nodes if name != leader]),
        ]
        draw.shuffle(edits)
        for what, names in edits:
            self._edited = [node_id]
            await cluster.shut_down(node_id)
            node.write_config(names)
            with context.stage(self.name, f"its file names {what}", node_id):
                await cluster.revive(node_id)
                code = await await_end(context, node_id)
            if code != REFUSED:
                context.accuse(
                    "F29", f"{node_id}, whose file names {what}, ended with {code}, not {REFUSED}"
                )
        return Injected("was started with edited files", (node_id,))

    async def heal(self, context: RunContext) -> None:
        edited, self._edited = self._edited, []
        for node_id in edited:
            await context.cluster.crash(node_id)
            broker(context, node_id).write_config()
        await context.cluster.revive(*edited)
