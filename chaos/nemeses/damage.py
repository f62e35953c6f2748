"""F10, F11 and F12: a disk returns other data than was written to it.

The node must notice: it refills its state from its own log and its peers, or it takes no part and
says so. In no case may it serve a caller from damaged data. A node that takes no part gets its own
disk back as it was before, as if a good copy of that moment had been found.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from chaos.cluster.cluster import FactMissingError, NodeStatus
from chaos.cluster.verify import differences
from chaos.context import Injected, RunContext
from chaos.nemeses.nemesis import Nemesis, Transport
from chaos.nemeses.starve import broker

STATE, JOURNAL = "state-*/data.mdb", "journal/*"
SETTLE_S = 20.0
POLL_S = 0.1
FLIPS = 16
PAGES = 4
PAGE_BYTES, HEAD_BYTES, FLAGS_AT, LOWER_AT, LEAF = 4_096, 16, 10, 12, 2
"""Of LMDB's pages: what kind each is, and where the two bytes for each of its rows end."""
ROUNDS_MAX = 3
REFUSED = 2
"""The exit code of a broker that refuses to start on its disk."""


class Damage(Nemesis):
    """A follower's files are damaged while it is down."""

    transports = frozenset({Transport.PROCESSES, Transport.NETLAB})
    excuses = ("the node stops", "peer lost entries that it had acknowledged")
    restarts_max: ClassVar[int] = 3
    """How often a broker that ended because of the damage is restarted, as a supervisor would
    do."""
    mended: ClassVar[bool] = False
    """Whether these restarts must suffice, unless the broker refuses to start and says why."""

    def __init__(self) -> None:
        self._folder = Path()
        self._hurt: str | None = None
        self._stayed_away = ""
        self._had_index = 0
        """A lower bound of the last log entry when its disk was copied."""
        self._took_part = False
        """Whether the node has taken more entries since: then the copy is an old image."""

    async def prepare(self, folder: Path, node_ids: Sequence[str]) -> None:
        del node_ids
        self._folder = folder / f"{self.name}-copy"

    async def harm(self, data_dir: Path, draw: random.Random) -> str:
        """Damage the files in the directory; return a description."""
        raise NotImplementedError

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        leader = await context.cluster.await_leader(within_s=self.within_s)
        others = [name for name in context.cluster.nodes if name != leader.node_id]
        self._hurt = draw.choice(others)
        self._took_part = False
        await context.cluster.crash(self._hurt)
        # The leader's log is at least as long as what the dead one had.
        self._had_index = (await context.cluster.await_leader(self.within_s)).last_index
        data_dir = broker(context, self._hurt).data_dir
        await self._copy(data_dir, self._folder)
        what = await self.harm(data_dir, draw)
        await context.cluster.revive(self._hurt)
        became = await self._await_fate(context, self._hurt)
        # The node may have died before it could be asked: the leader knows what it acknowledged.
        leader = await context.cluster.await_leader(self.within_s)
        self._took_part = self._took_part or any(
            peer.node_id == self._hurt and peer.match_index > self._had_index
            for peer in leader.peers
        )
        return Injected(f"{what}; it {became}", (self._hurt,))

    async def _await_fate(self, context: RunContext, node_id: str) -> str:
        """Wait to see whether the node catches up, ends, or stays a stranger."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + SETTLE_S
        seen = ""
        restarts = 0
        while loop.time() < until_s:
            code = context.cluster.nodes[node_id].exited()
            if code is not None:
                await context.cluster.crash(node_id)
                if code != REFUSED and restarts < self.restarts_max:
                    restarts += 1
                    await context.cluster.revive(node_id)
                    continue
                self._stayed_away = f"refused to go on (exit code {code})"
                if self.mended and code != REFUSED:
                    context.accuse("detected", f"{node_id} ends again and again: exit code {code}")
                return self._stayed_away
            leader = await context.cluster.await_leader(within_s=self.within_s)
            status = await context.cluster.node_status(node_id)
            seen = f"{status}"
            if isinstance(status, NodeStatus):
                self._took_part = self._took_part or status.last_index > self._had_index
                if status.role == NodeStatus.ROLE_STRANGER:
                    self._stayed_away = "stays a stranger"
                    return self._stayed_away
                if status.leader_id and status.applied_index >= leader.commit_index:
                    self._stayed_away = ""
                    return "came back level"
            await asyncio.sleep(POLL_S)
        self._stayed_away = f"was neither level nor away after {SETTLE_S:g} s"
        context.accuse("detected", f"{node_id} {self._stayed_away}; it says:\n{seen}")
        return self._stayed_away

    async def heal(self, context: RunContext) -> None:
        hurt, self._hurt = self._hurt, None
        if hurt is None:
            return
        if self._stayed_away:
            await context.cluster.crash(hurt)
            # A node that took part has acknowledged more since: it must repair itself when it
            # starts.
            if not self._took_part:
                await self._copy(self._folder, broker(context, hurt).data_dir)
            await context.cluster.revive(hurt)
        await self._find_the_rest(context)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _find_the_rest(self, context: RunContext) -> None:
        """Read every row, so that damage that was not found yet is found and mended now.

        A node that finds damage ends; after a restart it sets its state aside and fills a new one.
        """
        cluster = context.cluster
        for _ in range(ROUNDS_MAX):
            await cluster.await_leader(self.within_s)
            try:
                for difference in await differences(cluster, self.within_s):
                    context.accuse("I7", difference)
            except FactMissingError:
                ended = [name for name, node in cluster.nodes.items() if node.exited() is not None]
                if not ended:
                    raise
                await cluster.crash(*ended)
                await cluster.revive(*ended)
                await cluster.await_caught_up(cluster.nodes, self.within_s)
            else:
                return

    async def _copy(self, source: Path, target: Path) -> None:
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
        await asyncio.to_thread(shutil.copytree, source, target)


def largest(data_dir: Path, pattern: str) -> Path:
    """The largest file."""
    return max(data_dir.glob(pattern), key=lambda path: path.stat().st_size)


def newest(data_dir: Path, pattern: str) -> Path:
    """The file with the last name."""
    return max(data_dir.glob(pattern))


class TruncateState(Damage):
    """The state ends early, as after a copy that was cut short."""

    name = "truncate-state"
    faults = ("F10",)
    summary = "a follower's state is cut short while it is down"
    mended = True

    async def harm(self, data_dir: Path, draw: random.Random) -> str:
        state = largest(data_dir, STATE)
        size = state.stat().st_size
        kept = draw.randrange(0, size // 2)
        with state.open("r+b") as file:
            file.truncate(kept)
        return f"its state was cut from {size} to {kept} bytes"


class TearJournal(Damage):
    """The end of the journal is half written."""

    name = "tear-journal"
    faults = ("F10",)
    summary = "the end of a follower's journal is torn off in the middle of a record"
    restarts_max = 0  # what the node had acknowledged is lost: its peers end it every time

    async def harm(self, data_dir: Path, draw: random.Random) -> str:
        journal = newest(data_dir, JOURNAL)
        size = journal.stat().st_size
        torn = min(size // 2, draw.randrange(1, 2_000))
        with journal.open("r+b") as file:
            file.truncate(size - torn)
        return f"{torn} bytes are torn off its journal"


class FlipBits(Damage):
    """Bits flip in the journal or in the state."""

    name = "flip-bits"
    faults = ("F11",)
    summary = "bits are flipped in a follower's journal or state while it is down"

    async def harm(self, data_dir: Path, draw: random.Random) -> str:
        file_kind = draw.choice((STATE, JOURNAL))
        path = largest(data_dir, file_kind)
        size = path.stat().st_size
        with path.open("r+b") as file:
            for _ in range(FLIPS):
                at = draw.randrange(size)
                file.seek(at)
                [byte] = file.read(1)
                file.seek(at)
                file.write(bytes([byte ^ 1 << draw.randrange(8)]))
        return f"{FLIPS} bits are flipped in its {path.name}"


class SpoilHeads(Damage):
    """Pages of the state say that their rows are where there are none; LMDB does not check that."""

    name = "spoil-heads"
    faults = ("F11",)
    summary = "the heads of pages in a follower's state are overwritten while it is down"
    mended = True

    async def harm(self, data_dir: Path, draw: random.Random) -> str:
        path = largest(data_dir, STATE)
        content = bytearray(path.read_bytes())
        leaves = [
            page
            for page in range(0, len(content), PAGE_BYTES)
            if _number(content, page + FLAGS_AT) == LEAF
        ]
        spoilt = draw.sample(leaves, min(PAGES, len(leaves)))
        for page in spoilt:
            rows = slice(page + HEAD_BYTES, page + _number(content, page + LOWER_AT))
            content[rows] = b"\xff" * len(content[rows])
        path.write_bytes(content)
        return f"the heads of {len(spoilt)} pages of its state are spoilt"


def _number(content: bytearray, at: int) -> int:
    return int.from_bytes(content[at : at + 2], "little")


class Wipe(Damage):
    """The disk is replaced by an empty one."""

    name = "wipe"
    faults = ("F12",)
    summary = "a follower comes back with an empty disk under its own name"

    async def harm(self, data_dir: Path, draw: random.Random) -> str:
        del draw
        await asyncio.to_thread(shutil.rmtree, data_dir)
        return "its disk was wiped"


class OldImage(Damage):
    """The disk is replaced by a copy from before."""

    name = "old-image"
    faults = ("F12",)
    summary = "a follower comes back with an older image of its disk"

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        leader = await context.cluster.await_leader(within_s=self.within_s)
        hurt = draw.choice([name for name in context.cluster.nodes if name != leader.node_id])
        data_dir = broker(context, hurt).data_dir
        older = self._folder.with_name(f"{self.name}-older")
        await context.cluster.crash(hurt)
        await self._copy(data_dir, older)
        await context.cluster.revive(hurt)
        await context.cluster.await_caught_up([hurt], self.within_s)
        # The older image lacks what the node acknowledges from here on.
        await context.load.await_acknowledgement(self.within_s)
        await context.cluster.await_caught_up([hurt], self.within_s)
        await context.cluster.crash(hurt)
        self._hurt, self._took_part = hurt, False
        self._had_index = (await context.cluster.await_leader(self.within_s)).last_index
        await self._copy(data_dir, self._folder)
        await self._copy(older, data_dir)
        await asyncio.to_thread(shutil.rmtree, older)
        await context.cluster.revive(hurt)
        became = await self._await_fate(context, hurt)
        return Injected(f"an older image of its disk came back; it {became}", (hurt,))
