"""Unmodified PySyncObj, with messages delivered by the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport


class _Post(Transport):  # type: ignore[misc]  # pysyncobj publishes no types
    """Keeps what is sent."""

    ready = True

    def __init__(self) -> None:
        super().__init__(None, None, ())
        self.sent: list[dict[str, Any]] = []

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        del node
        self.sent.append(message)
        return True

    def destroy(self) -> None:
        """Do nothing: there is nothing to release."""


class StockNode(SyncObj):  # type: ignore[misc]  # pysyncobj publishes no types
    """A stock node whose state is the list of what was put."""

    def __init__(self, name: str, peer: str, **conf: object) -> None:
        self._post = _Post()
        self._peer = Node(peer)
        self.puts: list[bytes] = []
        settings = SyncObjConf(
            autoTick=False, appendEntriesUseBatch=False, commandsWaitLeader=False, **conf
        )
        super().__init__(Node(name), [self._peer], conf=settings, transport=self._post)
        self._post._onNodeConnected(self._peer)

    @replicated  # type: ignore[untyped-decorator]  # pysyncobj publishes no types
    def put(self, item: bytes) -> bytes:
        self.puts.append(item)
        if item == b"poison":
            raise ValueError("cannot be applied")
        return item

    def receive(self, message: dict[str, Any]) -> None:
        self._post._onMessageReceived(self._peer, message)

    def take(self, kind: str) -> list[dict[str, Any]]:
        """Return the messages of that kind that were sent since the last call."""
        found = [message for message in self._post.sent if message["type"] == kind]
        self._post.sent.clear()
        return found

    def be_elected(self) -> None:
        self._SyncObj__raftElectionDeadline = 0
        self.doTick(0)
        self.receive({"type": "response_vote", "term": self.raftCurrentTerm})

    def follow(self, entries: list[tuple[bytes, int, int]], prev_index: int = 1) -> None:
        """Take committed entries from the peer, leader of term 1, without applying them yet."""
        self.receive(
            {
                "type": "append_entries",
                "term": 1,
                "commit_index": prev_index + len(entries),
                "entries": entries,
                "prevLogIdx": prev_index,
                "prevLogTerm": 0 if prev_index == 1 else 1,
            }
        )

    @property
    def last_index(self) -> int:
        return int(self._SyncObj__getCurrentLogIndex())


def with_journal(name: str, peer: str, folder: Path, dump_at: int | None = None) -> StockNode:
    """A stock node with a journal file, and a dump that ends at an entry, as after a crash."""
    dump = folder / "dump"
    conf: dict[str, object] = {"journalFile": str(folder / "journal")}
    if dump_at is not None:
        dump.touch()
        last = (b"\x01", dump_at, 1)
        prev = (b"\x01", dump_at - 1, 1)
        conf |= {
            "fullDumpFile": str(dump),
            "serializer": lambda *_: None,
            "deserializer": lambda *_: (None, last, prev, []),
        }
    return StockNode(name, peer, **conf)
