"""Run the demo; exit 1 when any line of the proof fails."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console

import demo
from chaos.cluster.processes import ProcessCluster
from chaos.cluster.workers import WorkerProcesses
from chaos.history.outages import Outage
from chaos.history.record import Ledger
from chaos.history.verdict import check, report
from chaos.history.violation import Violation
from demo import proof, trace
from demo.handlers import RUNS_DIR_VARIABLE, runs
from demo.probe import QUEUE as PROBE_QUEUE
from demo.probe import Probe
from demo.replay import QUEUE, Replay
from demo.screen import BAR_WIDTH, SLICE_S, Screen, Standing
from demo.stale import StaleWorker
from tq_client import AsyncClient

REPLAY_S = 65.0
"""How long the replay takes: the trace is sped up to fit."""
WORKERS = 2
CONCURRENCY = 16
KILL_AT = (0.2, 0.45, 0.7)
"""When the leader is killed, as parts of the replay."""
DOWN_S = 2.0
"""How long a killed broker stays down once its cluster has a new leader."""


class Demo:
    """One run: a cluster, its workers, the replay, the kills, the evidence."""

    def __init__(self, folder: Path, requests: trace.Trace, console: Console) -> None:
        self._trace = requests
        self._console = console
        self._screen = Screen(console, len(requests.requests))
        self._cluster = ProcessCluster(folder)
        addresses = self._cluster.addresses
        self._runs_dir = folder / "runs"
        self._runs_dir.mkdir()
        self._workers = WorkerProcesses(
            folder,
            addresses,
            count=WORKERS,
            handlers="demo.handlers",
            queue=QUEUE,
            options=("--concurrency", str(CONCURRENCY)),
            environment={RUNS_DIR_VARIABLE: str(self._runs_dir)},
        )
        self._ledger = Ledger(time.monotonic)
        self._probe = Probe(addresses, self._ledger)
        self._stale = StaleWorker(addresses, self._ledger)
        self._outages: list[Outage] = []
        self._violations: list[Violation] = []

    async def run(self) -> bool:
        """Run it all; True when the proof holds."""
        speed = self._trace.span_s / REPLAY_S
        self._tell_what_is_replayed(speed)
        async with AsyncExitStack() as stack:
            self._screen.event("starting three brokers and two workers")
            await stack.enter_async_context(self._cluster)
            leader = await self._cluster.await_leader(within_s=30)
            self._screen.event(f"{leader.node_id} leads term {leader.term}")
            self._workers.start()
            stack.push_async_callback(self._workers.stop)
            client = await stack.enter_async_context(AsyncClient(self._cluster.addresses))
            stack.push_async_callback(self._probe.close)
            stack.push_async_callback(self._stale.close)
            replay = Replay(client, self._trace, speed)
            with self._screen:
                async with asyncio.TaskGroup() as group:
                    beside = [
                        group.create_task(self._probe.run()),
                        group.create_task(self._watch(replay)),
                    ]
                    await asyncio.gather(replay.run(), self._kill_leaders(replay))
                    for task in beside:
                        task.cancel()
                self._screen.event("everything is finished; recomputing every result here")
                await self._workers.stop()
                evidence = await self._evidence(client, replay)
        lines = list(proof.lines(evidence))
        self._screen.proof(lines)
        if self._violations:
            self._console.print(report(self._ledger, self._violations, at_most=2), soft_wrap=True)
        return all(line.holds is not False for line in lines)

    def _tell_what_is_replayed(self, speed: float) -> None:
        requests = self._trace
        path = os.path.relpath(requests.path)
        sample = ", the bundled sample, as the whole trace is absent" if requests.is_sample else ""
        self._console.print(
            f"replaying {len(requests.requests):,} requests of {path}{sample}\n"
            f"recorded from {requests.began_at:%Y-%m-%d %H:%M} on, {requests.span_s / 60:.0f}"
            f" minutes sped up {speed:.1f} times to {REPLAY_S:.0f} s",
            highlight=False,
        )

    async def _kill_leaders(self, replay: Replay) -> None:
        loop = asyncio.get_running_loop()
        for part in KILL_AT:
            due_s = replay.started_s + part * replay.length_s
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            await self._stale.claim()
            leader = await self._cluster.await_leader(within_s=30)
            fault_s = self._ledger.now_s()
            self._cluster.kill(leader.node_id)
            self._screen.event(
                f"SIGKILL: {leader.node_id}, the leader of term {leader.term}", "red"
            )
            outage = await self._probe.await_outage(fault_s, within_s=60)
            self._outages.append(outage)
            heir = await self._cluster.await_leader(within_s=30)
            self._screen.event(
                f"{heir.node_id} leads term {heir.term}; writes were out for"
                f" {outage.length_s * 1e3:.0f} ms",
                "green",
            )
            await self._stale.report_late()
            self._screen.event(
                f"late reports of a silent worker: {self._stale.refused} of {self._stale.sent}"
                " refused"
            )
            await asyncio.sleep(DOWN_S)
            self._cluster.restart(leader.node_id)
            await self._cluster.await_caught_up([leader.node_id], within_s=60)
            self._screen.event(f"{leader.node_id} is back and has caught up")

    async def _watch(self, replay: Replay) -> None:
        while True:
            self._workers.check_alive()
            nodes = await self._cluster.statuses()
            self._screen.show(
                Standing(
                    total=len(self._trace.requests),
                    submitted=len(replay.acknowledged),
                    completed=len(replay.finished),
                    nodes=nodes,
                    slowest_s=self._probe.slowest_s(SLICE_S, BAR_WIDTH),
                )
            )
            await asyncio.sleep(0.25)

    async def _evidence(self, client: AsyncClient, replay: Replay) -> proof.Evidence:
        everything = [task async for task in client.list_tasks(page_size=1_000)]
        self._ledger.listed(task.message for task in everything if task.queue != QUEUE)
        self._violations = check(self._ledger, all_finished=False)
        return proof.Evidence(
            trace=self._trace,
            acknowledged=replay.acknowledged,
            listed={t.task_id: t.state for t in everything if t.queue == QUEUE},
            finished=replay.finished,
            expected=await proof.recompute(self._trace.requests),
            runs=runs(self._runs_dir),
            failures=replay.failures,
            probe_acknowledged=self._probe.acknowledged(),
            probe_listed=frozenset(
                task.task_id for task in everything if task.queue == PROBE_QUEUE
            ),
            outages=self._outages,
            kills=len(KILL_AT),
            stale_sent=self._stale.sent,
            stale_refused=self._stale.refused,
            stale_kept=self._stale.kept,
            checker_calls=len(self._ledger.calls),
            violations=[violation.message for violation in self._violations],
        )


async def _run(folder: Path, console: Console) -> bool:
    return await Demo(folder, trace.load(), console).run()


def main() -> int:
    """Run the demo in a temporary folder, which is kept when something failed."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=demo.__doc__)
    parser.parse_args()
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="tq-demo-"))
    holds = False
    try:
        holds = asyncio.run(_run(folder, console))
    except KeyboardInterrupt:
        console.print("interrupted")
        holds = True  # nothing is wrong that the folder would explain
        return 130
    finally:
        if holds:
            shutil.rmtree(folder)
        else:
            console.print(f"what every process wrote is in {folder}", highlight=False)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
