"""What a node believes of its peers' wall clocks."""

from __future__ import annotations

import asyncio
import random
from typing import cast

from tq_cluster.core.model.types import TimestampMs
from tq_cluster.leader.log_time import LogTime
from tq_cluster.raft.network import Network
from tq_cluster.raft.peers import PeerListener, Peers

NOON_MS = 1_800_000_000_000


class Clocks:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.monotonic = 10.0
        self.wall = NOON_MS

    def monotonic_s(self) -> float:
        return self.monotonic

    def wall_ms(self) -> int:
        return self.wall


def made_peers(clocks: Clocks) -> Peers:
    return Peers(
        node_id="n1",
        members={"n1": "", "n2": "", "n3": ""},
        network=cast(Network, None),
        loop=asyncio.get_running_loop(),
        clock=clocks,
        draw=random.Random(1),
        listener=cast(PeerListener, None),
        guarded=lambda function: function(),
    )


async def test_a_leader_whose_wall_clock_steps_is_outvoted_before_its_peers_speak_again() -> None:
    clocks = Clocks()
    peers = made_peers(clocks)

    def offsets_ms() -> list[int]:
        return [each for name in ("n2", "n3") if (each := peers.wall_offset_ms(name)) is not None]

    for name in ("n2", "n3"):
        peers.note_wall_ms(name, NOON_MS)
    log_time = LogTime(clocks, offsets_ms, members=3)
    log_time.begin(TimestampMs(NOON_MS), stepped_ms=0)

    clocks.monotonic += 0.05
    clocks.wall += 3_600_000 + 50

    assert log_time.now_ms() - NOON_MS <= 55


async def test_the_time_since_a_peer_spoke_last_is_no_difference_between_the_clocks() -> None:
    clocks = Clocks()
    peers = made_peers(clocks)
    peers.note_wall_ms("n2", NOON_MS + 7)

    clocks.monotonic += 60.0
    clocks.wall += 60_000

    assert peers.wall_offset_ms("n2") == 7
    assert peers.wall_offset_ms("n3") is None
