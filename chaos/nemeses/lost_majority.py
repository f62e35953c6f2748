"""F24: a majority of the disks is lost, and `tq-cluster recover` recovers from a remaining one."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chaos.cluster import commands
from chaos.cluster.cluster import FactMissingError, NodeStatus
from chaos.context import Injected, RunContext
from chaos.history.calls import Ending, ReportCall
from chaos.nemeses.new_cluster import NewCluster
from chaos.nemeses.starve import broker

CLOCKS_APART_S = 0.1
"""Log time follows the median of the members' wall clocks, here one and the same: between it and
that clock is a message's way at most, and what the clock was set right by since."""
LETTERS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """The nodes whose disks remain, and what is known of the last one without a report."""

    node_ids: tuple[str, ...]
    """In the order in which they went down."""
    held_s: float
    """The last disk holds everything that was acknowledged until then."""
    applied_index: int
    gone_s: float


class LostMajority(NewCluster):
    """A minority goes down, each node after further entries; then only their disks remain."""

    name = "lost-majority"
    summary = "a minority is down, the others go on and are lost with their disks"

    def __init__(self) -> None:
        super().__init__()
        self._left: _Left | None = None
        self._done_with: set[str] = set()
        """Dead letters of an earlier recovery that were found to have finished."""

    async def inject(self, context: RunContext, draw: random.Random) -> Injected:
        cluster = context.cluster
        held_s, applied_index = 0.0, 0
        left = draw.sample(sorted(cluster.nodes), len(cluster.nodes) - cluster.majority)
        for node in left:
            held_s = context.ledger.now_s()
            await cluster.await_caught_up([node], self.within_s)
            status = await cluster.node_status(node)
            if not isinstance(status, NodeStatus):
                raise FactMissingError(f"{node} was level, and does not say how far it is")
            applied_index = status.applied_index
            # A node that is stopped leaves nothing in its journal that its state lacks.
            killed = draw.choice((True, True, False))
            if killed:
                await cluster.crash(node)
            else:
                await cluster.shut_down(node)
            how = "killed" if killed else "stopped"
            with context.stage(self.name, f"{how}, and the others go on without", node):
                await self.go_on(context, draw)
        deed = await self.destroy(context, [name for name in cluster.nodes if name not in left])
        self._left = _Left(
            node_ids=tuple(left),
            held_s=held_s,
            applied_index=applied_index,
            gone_s=context.ledger.now_s(),
        )
        return deed

    async def heal(self, context: RunContext) -> None:
        left, self._left = self._left, None
        if left is None:
            await self.let_live(context)
            return
        nodes, file = [broker(context, name) for name in left.node_ids], self.new_file()
        with context.stage(self.name, "recovered from", *left.node_ids):
            given = [f"--disk={node.data_dir}" for node in nodes]
            looked = await nodes[0].command("recover", *given)
            [cluster_id] = set(re.findall(r"of cluster (\S+)", looked))
            await nodes[0].command("recover", *given, "--backup", str(file), "--yes", cluster_id)
            report = json.loads(file.with_name(f"{file.name}.report.json").read_text())
            if report["kept_up_to_entry"] < left.applied_index:
                context.accuse(
                    "F24",
                    f"the report says that entries up to {report['kept_up_to_entry']} are kept;"
                    f" {left.node_ids[-1]} had applied {left.applied_index}",
                )
            for node in nodes:
                await asyncio.to_thread(shutil.move, node.data_dir, f"{file}.{node.node_id}")
            certain_s = _on_the_ledger(context, report["certain_until"]) - CLOCKS_APART_S
            await self.new_cluster(
                context,
                file,
                certain_s=max(certain_s, left.held_s),
                gone_s=left.gone_s,
                quarantined=True,
            )
        with context.stage(self.name, "what was uncertain is looked at"):
            await self._look_at(context, set(report["uncertain_task_ids"]))

    async def _look_at(self, context: RunContext, told: set[str]) -> None:
        """Compare the dead letters with the report, and redrive those that did not finish."""
        listed = await _admin(context, "dead-letters", "list", "--limit", str(LETTERS_MAX))
        uncertain = {
            letter["spec"]["task_id"]
            for letter in listed
            if letter["failure_reason"] == "UNCERTAIN"
        }
        if uncertain - self._done_with != told:
            context.accuse(
                "F24",
                f"the report names the uncertain tasks {sorted(told)}, and the dead letters with"
                f" that reason are {sorted(uncertain - self._done_with)}",
            )
        finished = {
            call.task_id
            for call in context.ledger.calls
            if isinstance(call, ReportCall) and call.accepted and call.ending is Ending.COMPLETE
        }
        self._done_with |= told & finished
        unfinished = sorted(told - finished)
        if not unfinished:
            return
        calls = [
            context.ledger.redrive("operator", f"{self.name} {task_id}", task_id=task_id)
            for task_id in unfinished
        ]
        await _admin(context, "dead-letters", "redrive", *unfinished)
        for call in calls:
            context.ledger.changed(call, 1)


async def _admin(context: RunContext, *arguments: str) -> Any:  # noqa: ANN401  # as JSON has it
    """Run tq-admin and parse its output."""
    here = ("--address", ",".join(context.cluster.addresses), "--output", "json")
    return json.loads(await commands.run(["-m", "tq_admin", *arguments, *here]))


def _on_the_ledger(context: RunContext, told: str) -> float:
    """Convert an instant of the wall clock that all nodes share to the ledger's clock."""
    instant = datetime.strptime(told, "%Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=UTC)
    return context.ledger.now_s() - (time.time() - instant.timestamp())
