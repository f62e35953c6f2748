"""How much memory 64 addresses can make a broker hold: `python -m benchmarks.callers [KIND...]`.

Three brokers hold 100,000 tasks. Callers from 64 addresses of the loopback network do what the
chaos suite's abusers do, one kind after the other: read no answers, send giants, begin messages
that they never end, call everything at its limits. The figure is the anonymous memory of the broker
that has the most: before the abuse, at its peak, and a minute after. The details name each
broker's, the leader's first.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from ipaddress import IPv4Address
from itertools import cycle, islice
from pathlib import Path

from rich.console import Console

from benchmarks import machine, report
from benchmarks.cluster import anonymous_bytes, brokers, fill, pids
from benchmarks.figures import Figure
from chaos.abuse.__main__ import UNDER_WAY
from chaos.cluster.netlab import ROOT
from tq_client import AsyncClient

KINDS = ("readers", "giants", "conversations", "storms")
"""The kinds of abuse that make a broker hold bytes; the others hold its connections."""
ADDRESSES = 64
FIRST_ADDRESS = IPv4Address("127.0.64.1")
TASKS = 100_000
ABUSE_S = 30.0
AFTER_S = 60.0
LOOK_S = 0.05
SETTLE_S = 5.0
MEMORY_MB_MAX = 512
LEFT_MAX = 1.2
"""The factor of its memory before the abuse that a broker may hold a minute later."""


class Relay:
    """A relay to a broker that calls it from an address of its own."""

    def __init__(self, source: str, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._source = source
        self._upstream = (host, int(port))

    async def listen(self, stack: AsyncExitStack) -> str:
        """Listen until the stack ends; return the address to call."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        stack.callback(server.close)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection(
                *self._upstream, local_addr=(self._source, 0)
            )
            with suppress(asyncio.CancelledError):  # the end of the measurement
                await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
            back.transport.abort()
        writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(64 << 10):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


def held_mb(running: Sequence[int]) -> list[float]:
    """The anonymous memory of each process."""
    return [anonymous_bytes(pid) / 1e6 for pid in running]


def _each(sizes: Sequence[float]) -> str:
    return ", ".join(f"{size:.0f}" for size in sizes) + " MB"


@asynccontextmanager
async def abuser(kind: str, api: Sequence[str], raft: Sequence[str]) -> AsyncIterator[None]:
    """Run an abuser process until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chaos.abuse", kind),
        *("--api", ",".join(api), "--raft", ",".join(raft)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        # Its output at the end does not matter.
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            said = await process.stdout.readline()
        assert said.decode().strip() == UNDER_WAY, f"the abuser ended early: {said!r}"
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _sources() -> Iterator[str]:
    return (str(FIRST_ADDRESS + number) for number in range(ADDRESSES))


async def measure(kind: str, data_dir: Path | None) -> list[Figure]:
    """Measure one kind of abuse on a cluster of its own."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(brokers(data_dir))
        async with AsyncClient(cluster.addresses) as client:
            await fill(client, "bench", "noop", TASKS)
        await asyncio.sleep(SETTLE_S)
        leader = cluster.brokers[(await cluster.await_leader(within_s=SETTLE_S)).node_id]
        running = sorted(pids(cluster), key=lambda pid: pid != leader.pid)
        before_mb = most_mb = held_mb(running)
        upstreams = islice(cycle(cluster.addresses), ADDRESSES)
        api = [
            await Relay(source, upstream).listen(stack)
            for source, upstream in zip(_sources(), upstreams, strict=True)
        ]
        raft = [broker.raft_address for broker in cluster.brokers.values()]
        async with abuser(kind, api, raft):
            for _ in range(int(ABUSE_S / LOOK_S)):
                most_mb = [max(pair) for pair in zip(most_mb, held_mb(running), strict=True)]
                await asyncio.sleep(LOOK_S)
        await asyncio.sleep(AFTER_S)
        if sorted(pids(cluster)) != sorted(running):
            raise AssertionError("a broker has ended")
        after_mb = held_mb(running)
    return [
        Figure(
            name=f"{kind}, {ADDRESSES} addresses: a broker's memory at its worst",
            value=max(most_mb),
            unit="MB",
            target=MEMORY_MB_MAX,
            detail=f"{_each(most_mb)}; before {_each(before_mb)}, with {TASKS:,} tasks",
        ),
        Figure(
            name=f"{kind}, {ADDRESSES} addresses: {AFTER_S:.0f} s later",
            value=max(after_mb) / max(before_mb),
            unit="x",
            target=LEFT_MAX,
            detail=_each(after_mb),
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and fail if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.callers", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", choices=[*KINDS, []], default=[])
    parser.add_argument("--data-dir", type=Path, metavar="DIR")
    chosen = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    described = machine.describe(chosen.data_dir, "python -m benchmarks.callers")
    bystanders = machine.Bystanders()
    figures: list[Figure] = []
    for kind in chosen.kinds or KINDS:
        figures += asyncio.run(measure(kind, chosen.data_dir))
    described["other programs"] = f"took {bystanders.share():.0%} of the cores meanwhile"
    report.print_table(console, described, figures)
    missed = [figure.name for figure in figures if figure.met is False]
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
