"""F24: every disk is lost, and there is a backup that was made under load."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from chaos.cluster import commands
from chaos.context import Injected, RunContext
from chaos.nemeses.new_cluster import NewCluster


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backup:
    file: Path
    asked_s: float
    """The backup holds everything that was acknowledged until then."""
    gone_s: float


class Restored(NewCluster):
    """A backup is made under load; later all disks are lost."""

    name = "restored"
    summary = "a backup is made under load, later every disk is lost; restored from the backup"

    def __init__(self) -> None:
        super().__init__()
        self._backup: _Backup | None = None

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        file, asked_s = self.new_file(), context.ledger.now_s()
        with context.stage(self.name, "a backup is made"):
            here = ("--address", ",".join(context.cluster.addresses))
            await commands.run(["-m", "tq_admin", "backup", str(file), *here])
        await self.go_on(context, draw)
        deed = await self.destroy(context, list(context.cluster.nodes))
        self._backup = _Backup(file=file, asked_s=asked_s, gone_s=context.ledger.now_s())
        return deed

    async def heal(self, context: RunContext) -> None:
        backup, self._backup = self._backup, None
        if backup is None:
            await self.let_live(context)
            return
        with context.stage(self.name, "restored"):
            await self.new_cluster(
                context,
                backup.file,
                certain_s=backup.asked_s,
                gone_s=backup.gone_s,
                quarantined=False,
            )
