"""What goes wrong without the rules that no switch turns off: R7, R9, R10, R12.

With the rule the scenario uses the real replica; without it, unmodified PySyncObj.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from tests.raft.modelled_disk import ModelledDisk
from tests.raft.stock import StockNode, with_journal
from tests.simulation.world.puppet import Stage, append, on_stage
from tq_cluster.core.model.types import AppliedAt
from tq_cluster.errors import FatalError, NotLeaderError
from tq_cluster.raft.journal import Journal
from tq_cluster.raft.startup import align
from tq_cluster.raft.syncer import InlineSyncer

# ---------------------------------------------------------------------- R7


def a_follower_is_asked(*, with_rule: bool) -> str:
    """R7: a caller calls a follower, which restarts; then another caller calls it."""
    return on_stage(_asks_our_follower) if with_rule else _asks_stock_follower()


async def _asks_our_follower(stage: Stage) -> str:
    stage.puppets["n1"].say(append=append(1, (1, 0), [(1, b"one")], commit_index=2))
    await stage.puppets["n1"].hears("append_reply")
    try:
        await stage.host.replica.propose(b"two", AppliedAt(2, 1))
    except NotLeaderError:
        return ""
    return "a follower took a proposal"


def _asks_stock_follower() -> str:
    follower = StockNode("follower", "leader")
    follower.follow([])
    follower.put(b"first", callback=lambda *_: None)
    follower.doTick(0)
    command = follower.take("apply_command")[0]["command"]
    # The follower restarts; the leader's answer to the first caller arrives late.
    follower = StockNode("follower", "leader")
    follower.follow([])
    answers: list[tuple[object, int]] = []
    follower.put(b"second", callback=lambda result, reason: answers.append((result, reason)))
    follower.doTick(0)
    follower.receive(
        {"type": "apply_command_response", "request_id": 1, "log_idx": 2, "log_term": 1}
    )
    follower.follow([(command, 2, 1)])
    follower.doTick(0)
    result, reason = answers[0]
    assert reason == 0, "the second caller was not told SUCCESS"
    return f"the caller of {b'second'!r} was told SUCCESS, with the result {result!r}"


# ---------------------------------------------------------------------- R9


def an_entry_cannot_be_applied(*, with_rule: bool) -> str:
    """R9: applying an entry raises."""
    return on_stage(_poisons_us) if with_rule else _poisons_stock()


async def _poisons_us(stage: Stage) -> str:
    tried = 0

    def poisoned(_index: int, _term: int, _entry: bytes) -> bool:
        nonlocal tried
        tried += 1
        raise FatalError("cannot be applied")

    stage.host.machine.apply = poisoned  # type: ignore[assignment,method-assign]  # it fails
    stage.puppets["n1"].say(append=append(1, (1, 0), [(1, b"poison")], commit_index=2))
    await stage.until("the process has ended", lambda: bool(stage.deaths))
    await stage.pass_time(1.0)
    return "" if tried == 1 else f"it was applied {tried} times"


def _poisons_stock() -> str:
    node = StockNode("follower", "leader")
    leader = StockNode("leader", "follower")
    leader.be_elected()
    leader.put(b"poison")
    leader.doTick(0)
    entries = leader.take("append_entries")[-1]["entries"]
    node.follow([(b"\x01", 2, 1), (entries[0][0], 3, 1), (b"\x01", 4, 1)])
    for _ in range(5):
        try:
            node.doTick(0)
        except ValueError:
            continue
    return f"the entry was applied {len(node.puts)} times, and nothing after it ever"


# ---------------------------------------------------------------------- R10


def a_crash_between_state_and_journal(*, with_rule: bool) -> str:
    """R10: the state is newer than the start of the journal, as a crash may leave it."""
    last = _starts_ours() if with_rule else _starts_stock()
    return "" if last == 20 else f"entries up to 20 were acknowledged; the log now ends at {last}"


def _starts_ours() -> int:
    disk = ModelledDisk()
    journal = Journal(disk, InlineSyncer(), on_fatal=_raise)
    journal.add(b"\x01", 1, 0)
    for index in range(2, 21):
        journal.add(b"entry", index, 1)
    journal.sync_now()
    journal = Journal(disk.power_cut(random.Random(1)), InlineSyncer(), on_fatal=_raise)
    align(journal, AppliedAt(10, 1), None)
    return journal.last_index


def _starts_stock() -> int:
    with tempfile.TemporaryDirectory() as folder:
        node = with_journal("node", "peer", Path(folder))
        node.follow([(b"\x01", index, 1) for index in range(2, 21)])
        assert node.last_index == 20
        node.destroy()
        node = with_journal("node", "peer", Path(folder), dump_at=10)
        node.doTick(0)
        last_index = node.last_index
        node.destroy()
    return last_index


def _raise(error: FatalError) -> None:
    raise error


# ---------------------------------------------------------------------- R12


LARGE = bytes(range(256)) * 1024
"""A quarter of a MiB that is not text."""


def a_large_entry(*, with_rule: bool) -> str:
    """R12: an entry of 256 KiB goes to a follower."""
    return on_stage(_sends_our_large) if with_rule else _sends_stock_large()


async def _sends_our_large(stage: Stage) -> str:
    term = await stage.elect("n3")
    follower = stage.puppets["n3"]
    reply = {"term": term, "accepted": True, "next_index": 3, "last_index": 2}
    follower.say(append_reply=reply)
    index = await stage.propose(LARGE)
    while True:
        got = (await follower.hears("append")).append
        if got.entries and got.prev_index == index - 1:
            return "" if got.entries[0].command == LARGE else "another entry arrived"


def _sends_stock_large() -> str:
    leader, follower = StockNode("leader", "follower"), StockNode("follower", "leader")
    leader.be_elected()
    for message in leader.take("append_entries"):
        follower.receive(message)
    leader.put(LARGE)
    leader.doTick(0)
    failed = 0
    for message in leader.take("append_entries"):
        try:
            follower.receive(message)
        except Exception:  # noqa: BLE001 - any error of a cut pickle
            failed += 1
    return f"the follower raised {failed} times on the pieces of one entry" if failed else ""
