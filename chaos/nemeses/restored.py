"""F24: every disk is gone, and there is a backup that was made while the cluster was at work."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from chaos import commands
from chaos.arena import Arena
from chaos.nemeses.new_cluster import NewCluster
from chaos.nemesis import Deed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backup:
    file: Path
    asked_s: float
    """All that was acknowledged until then is in it."""
    gone_s: float


class Restored(NewCluster):
    """A backup is made under load; later the building burns down."""

    name = "restored"
    summary = "a backup is made under load, later every disk is lost; restored from the backup"

    def __init__(self) -> None:
        super().__init__()
        self._backup: _Backup | None = None

    async def inject(self, arena: Arena, draw: random.Random) -> Deed:
        file, asked_s = self.new_file(), arena.ledger.now_s()
        with arena.stage(self.name, "a backup is made"):
            here = ("--address", ",".join(arena.cluster.addresses))
            await commands.run(["-m", "tq_admin", "backup", str(file), *here])
        await self.go_on(arena, draw)
        deed = await self.destroy(arena, list(arena.cluster.nodes))
        self._backup = _Backup(file=file, asked_s=asked_s, gone_s=arena.ledger.now_s())
        return deed

    async def heal(self, arena: Arena) -> None:
        backup, self._backup = self._backup, None
        if backup is None:
            await self.let_live(arena)
            return
        with arena.stage(self.name, "restored"):
            await self.new_cluster(
                arena,
                backup.file,
                certain_s=backup.asked_s,
                gone_s=backup.gone_s,
                quarantined=False,
            )
