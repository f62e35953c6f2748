"""The effect of one shape on the brokers and on other callers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2

from benchmarks.cluster import anonymous_bytes
from benchmarks.sweep.ground import MIB, Ground, Stubs
from chaos.cluster.processes import ProcessCluster
from tq.v1 import cluster_service_pb2

ROOT = Path(__file__).resolve().parents[2]
CALL_S = 30.0
ENDLESS_S = 2.0
"""The deadline of a stream that ends only with its caller."""
STATUS_S = 60.0
HOLD_BASE_S, HOLD_PER_MIB_S = 0.020, 0.005
ANONYMOUS_MAX = 512_000_000
"""The most memory that any calls may make a broker take."""
LARGE = 64 * MIB
"""The message limit of the sweep's own connections: above that of any broker."""

_OPTIONS = [
    ("grpc.max_receive_message_length", LARGE),
    ("grpc.max_send_message_length", LARGE),
    ("grpc.use_local_subchannel_pool", 1),
]


def bound_s(size: int) -> float:
    """Return how long a call of so many bytes may hold the loop."""
    return HOLD_BASE_S + HOLD_PER_MIB_S * max(0.0, size / MIB - 1)


@dataclass(slots=True, kw_only=True)
class Measured:
    """One row of the table."""

    rpc: str
    shape: str
    legal: bool
    via: str
    """The leader, or a follower."""
    together: int
    sent_bytes: int
    answered_bytes: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0
    leader_wall_s: float = 0.0
    leader_cpu_s: float = 0.0
    follower_wall_s: float = 0.0
    follower_cpu_s: float = 0.0
    probe_s: float = 0.0
    probes_failed: int = 0
    terms: int = 0
    """The number of terms by which the term rose."""
    ended: list[str] = field(default_factory=list)
    """Brokers that ended."""
    anonymous_before: int = 0
    anonymous_after: int = 0
    """The memory of the broker with the most."""
    moves_leader: bool = False

    @property
    def bound_s(self) -> float:
        """How long it may have held a loop."""
        return bound_s(max(self.sent_bytes, self.answered_bytes))

    def faults(self, slack: float, *, wall: bool) -> list[str]:
        """The bounds that were broken."""
        found = [f"{name} ended" for name in self.ended]
        if self.terms and not self.moves_leader:
            found.append(f"{self.terms} terms")
        if self.anonymous_after > ANONYMOUS_MAX:
            found.append(f"{self.anonymous_after / 1e6:.0f} MB, bound {ANONYMOUS_MAX / 1e6:.0f}")
        for who, wall_s, cpu_s in (
            ("leader", self.leader_wall_s, self.leader_cpu_s),
            ("follower", self.follower_wall_s, self.follower_cpu_s),
        ):
            held_s = wall_s if wall else cpu_s
            if held_s > self.bound_s * slack:
                found.append(
                    f"{who} held {held_s * 1e3:.0f} ms, bound {self.bound_s * slack * 1e3:.0f}"
                )
        return found


class Prober:
    """Reads the lines of the lone caller."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._lines: list[tuple[float, float, str]] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.sweep.prober", *self._addresses),
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._process is not None
        assert self._reading is not None
        self._process.kill()
        await self._process.wait()
        await self._reading

    async def after(self, begun_s: float, within_s: float) -> None:
        """Wait until a submit was answered that began after ``begun_s``."""
        give_up_s = time.monotonic() + within_s
        while time.monotonic() < give_up_s:
            if self._lines and self._lines[-1][0] > begun_s and not self._lines[-1][2]:
                return
            await asyncio.sleep(0.01)

    def since(self, begun_s: float) -> tuple[float, int]:
        """The longest submit under way since then and the number that failed; then drops both."""
        seen = [line for line in self._lines if line[0] + line[1] >= begun_s]
        self._lines = self._lines[-1:]
        failed = sum(bool(why) for _, _, why in seen)
        return max((took_s for _, took_s, _ in seen), default=0.0), failed

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            begun_s, took_s, *why = line.decode().split()
            self._lines.append((float(begun_s), float(took_s), "".join(why)))


class Sweeper:
    """Sends requests as bytes and measures the effect on the brokers."""

    def __init__(self, cluster: ProcessCluster, ground: Ground, prober: Prober) -> None:
        self._cluster = cluster
        self._ground = ground
        self._prober = prober

    async def measure(
        self, method: MethodDescriptor, path: str, bodies: Sequence[bytes], row: Measured
    ) -> Measured:
        """Send all of ``bodies`` at once to the node that ``row`` names, and fill it in."""
        ground, cluster = self._ground, self._cluster
        target = ground.leader_id if row.via == "leader" else ground.follower_id
        leader_id = ground.leader_id
        terms = await self._terms()
        row.anonymous_before = self._anonymous()
        channel = grpc.aio.insecure_channel(cluster.nodes[target].address, options=_OPTIONS)
        begun_s = time.monotonic()
        async with channel:
            await asyncio.wait_for(channel.channel_ready(), CALL_S)
            calls = [self._call(channel, method, path, body, row) for body in bodies]
            row.answers.update(await asyncio.gather(*calls))
        row.took_s = time.monotonic() - begun_s
        await self._prober.after(time.monotonic(), CALL_S)
        await self.look(row, leader_id, time.monotonic() - begun_s)
        row.probe_s, row.probes_failed = self._prober.since(begun_s)
        row.anonymous_after = self._anonymous()
        await self._revive(row)
        row.terms = max((await self._terms()).values()) - max(terms.values())
        if row.terms or row.ended:
            await ground.await_leader()
        return row

    async def _call(
        self,
        channel: grpc.aio.Channel,
        method: MethodDescriptor,
        path: str,
        body: bytes,
        row: Measured,
    ) -> str:
        within_s = ENDLESS_S if path.endswith("/Watch") else CALL_S
        size = 0
        # No serializers: bytes in, bytes out.
        unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        both: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        try:
            if method.client_streaming:
                both = channel.stream_stream(path)
                async for part in both(iter([body]), timeout=within_s):
                    size += len(part)
            elif method.server_streaming:
                stream = channel.unary_stream(path)
                async for part in stream(body, timeout=within_s):
                    size += len(part)
            else:
                unary = channel.unary_unary(path)
                size = len(await unary(body, timeout=within_s))
        except grpc.aio.AioRpcError as error:
            return _reason(error)
        finally:
            if not method.server_streaming:
                row.answered_bytes = max(row.answered_bytes, size)
        return "OK"

    async def look(self, row: Measured, leader_id: str, span_s: float) -> None:
        """Ask every node how long its loop was held during the calls."""
        request = cluster_service_pb2.GetNodeStatusRequest()
        request.loop_hold_span.FromMilliseconds(min(60_000, max(1, int(span_s * 1e3))))
        for node_id, node in self._cluster.nodes.items():
            if node.exited() is not None:
                continue
            stubs = Stubs(self._cluster.channel(node_id))
            try:
                reply = await stubs.cluster.GetNodeStatus(request, timeout=STATUS_S)
            except grpc.aio.AioRpcError as error:
                row.ended.append(f"{node_id} ({error.code().name})")
                continue
            wall_s = reply.node.loop_hold_max.ToMicroseconds() / 1e6
            cpu_s = reply.node.loop_hold_cpu_max.ToMicroseconds() / 1e6
            if node_id == leader_id:
                row.leader_wall_s, row.leader_cpu_s = wall_s, cpu_s
            else:
                row.follower_wall_s = max(row.follower_wall_s, wall_s)
                row.follower_cpu_s = max(row.follower_cpu_s, cpu_s)

    async def watch(self) -> None:
        """Make every node measure its loop closely from now on."""
        await self.look(
            Measured(rpc="", shape="", legal=True, via="", together=0, sent_bytes=0), "", 0.001
        )

    async def _terms(self) -> dict[str, int]:
        terms = {}
        for node_id, status in (await self._cluster.statuses()).items():
            if not isinstance(status, str):
                terms[node_id] = status.term
        return terms or {"": 0}

    async def _revive(self, row: Measured) -> None:
        for node_id, broker in self._cluster.brokers.items():
            code = broker.exited()
            if code is not None:
                row.ended.append(f"{node_id} (exit code {code})")
                broker.start()

    def _anonymous(self) -> int:
        running = [each for each in self._cluster.brokers.values() if each.exited() is None]
        return max((anonymous_bytes(each.pid) for each in running if each.pid), default=0)


def _reason(error: grpc.aio.AioRpcError) -> str:
    """Return a failure's status and its reason, which is part of the contract."""
    name = error.code().name
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    assert isinstance(details, bytes)
    for detail in status_pb2.Status.FromString(details).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason if info.reason in name else f"{name}/{info.reason}"
    return name
