"""F29: somebody edits a node's file, and starts the node with it."""

from __future__ import annotations

import random

from chaos.arena import Arena
from chaos.nemeses.on_disks import await_end
from chaos.nemeses.starve import broker
from chaos.nemesis import Deed, Nemesis, Transport

REFUSED = 2
"""What a broker exits with whose file contradicts its disk."""


class EditedFiles(Nemesis):
    """A follower's file names other members than its disk: it must refuse to start.

    Whatever its file says, two nodes that acknowledge apart from each other would show in the
    history: the load calls all of them.
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

    async def inject(self, arena: Arena, draw: random.Random) -> Deed:
        cluster = arena.cluster
        leader = (await cluster.await_leader(self.within_s)).node_id
        node_id = draw.choice([name for name in cluster.nodes if name != leader])
        node = broker(arena, node_id)
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
            with arena.stage(self.name, f"its file names {what}", node_id):
                await cluster.revive(node_id)
                code = await await_end(arena, node_id)
            if code != REFUSED:
                arena.accuse(
                    "F29", f"{node_id}, whose file names {what}, ended with {code}, not {REFUSED}"
                )
        return Deed("was started with edited files", (node_id,))

    async def heal(self, arena: Arena) -> None:
        edited, self._edited = self._edited, []
        for node_id in edited:
            await arena.cluster.crash(node_id)
            broker(arena, node_id).write_config()
        await arena.cluster.revive(*edited)
