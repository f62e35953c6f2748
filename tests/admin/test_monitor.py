"""The monitor and --watch."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console, ConsoleDimensions

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker, cluster, serving
from tests.admin.test_queues import fail
from tests.patience import PATIENCE_S
from tq.v1 import queue_service_pb2
from tq.v1.task_service_pb2 import ReadLevel
from tq.v1.worker_service_pb2 import ListWorkersResponse
from tq_admin.monitor_screen import draw, sparkline
from tq_admin.observer import Observation, Observer
from tq_admin.readings import Reading
from tq_client import QueueStats


def drawn(seen: Observation, width: int = 140, height: int = 45) -> list[str]:
    """The lines of one frame."""
    console = Console(width=width, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - closed with the console
    console.print(draw(seen, ConsoleDimensions(width, height)))
    return [line.rstrip() for line in console.export_text().splitlines()]


@contextmanager
def observing(address: str) -> Iterator[Observer]:
    observer = Observer((address,), every_s=1)
    observer.start()
    try:
        yield observer
    finally:
        observer.close()


def test_the_screen_shows_nodes_queues_rates_workers_and_dead_letters(
    admin: Admin, broker: FakeBroker, address: str
) -> None:
    broker.cluster = cluster(leader="n2", down=("n3",))
    broker.workers.workers.add(worker_id="w-7", queues=["q"], leases=2)
    admin("submit", "q", "t", "--id", "alive")
    admin("submit", "q", "t", "--id", "dead")
    fail(broker, "dead")
    with observing(address) as observer:
        first = observer.observe()
    lines = drawn(first)

    assert lines[0].startswith("tq monitor  leader n2 in term 4  2 of 3 nodes up")
    text = "\n".join(lines)
    assert first.troubles == ()
    assert "n3    n3.example:7001  DOWN" in text
    assert "w-7" in text
    assert "dead  q" in text
    assert "PERMANENT_ERROR" in text


def test_without_a_leader_the_screen_says_what_is_only_as_last_seen(
    admin: Admin, broker: FakeBroker, address: str
) -> None:
    broker.cluster = cluster(leader="", down=("n1", "n3"))
    admin("submit", "q", "t")
    with observing(address) as observer:
        lines = drawn(observer.observe())

    assert broker.read_level == ReadLevel.READ_LEVEL_LOCAL
    assert lines[0].startswith("tq monitor  no leader  1 of 3 nodes up")
    assert any("queues, as one node's disk has them" in line for line in lines)
    assert any(line.startswith("q ") for line in lines)


def test_who_answered_last_time_is_asked_first(broker: FakeBroker, address: str) -> None:
    broker.cluster = cluster(leader="n2")
    lagging = FakeBroker()
    lagging.cluster = cluster(leader="n1", term=3)
    with serving(lagging) as other:
        observer = Observer((other, address), every_s=1)
        observer.latest = Observation(asked=address)
        seen = observer.observe()
    observer.close()

    assert seen.asked == address


def test_when_all_nodes_go_what_was_last_seen_stays(broker: FakeBroker) -> None:
    broker.cluster = cluster(leader="n2")
    with serving(broker) as address:
        observer = Observer((address,), every_s=1)
        observer.latest = observer.observe()
    gone = observer.observe()
    observer.close()

    lines = drawn(gone)
    assert lines[0].startswith("tq monitor  no leader  0 of 3 nodes up")
    assert "no broker answered" in lines[1]


@pytest.mark.parametrize("blocked", [0, 1_234_567])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 45), (200, 60)])
def test_the_screen_fits_the_terminal(width: int, height: int, blocked: int) -> None:
    workers = ListWorkersResponse()
    for number in range(50):
        workers.workers.add(worker_id=f"w{number}", queues=["queue-1"])
    queues = tuple(
        QueueStats.of(queue_service_pb2.QueueStats(queue=f"queue-{n}", pending=n, blocked=blocked))
        for n in range(50)
    )
    seen = Observation(cluster=cluster(leader="n2"), reading=Reading(0, queues), workers=workers)

    lines = drawn(seen, width, height)

    assert len(lines) <= height
    assert any(line.startswith("queue-49") for line in lines)
    assert any(line.startswith("w1") for line in lines)
    assert all(len(line) <= width for line in lines)
    shown = blocked > 0 and width > 100
    assert any("BLOCKED" in line for line in lines) == shown
    assert any("1,234,567" in line for line in lines) == shown


def test_a_sparkline_rises_to_its_highest_value() -> None:
    assert sparkline([0, 5, 10]) == "▁▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["monitor"], b"leader n2"),
        (["cluster-status", "--watch", "0.2"], b"n2.example"),
        (["stats", "--interval", "1h", "--watch", "1"], b"asking"),
    ],
)
def test_q_ends_what_is_shown_on_a_terminal(
    broker: FakeBroker, address: str, arguments: list[str], shown: bytes
) -> None:
    broker.cluster = cluster(leader="n2")

    watch_until_q(address, arguments, shown)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["monitor"], ["list", "--watch", "1", "--timeout", "100ms"]])
def test_a_cluster_that_says_nothing_is_watched_until_q(silent: str, arguments: list[str]) -> None:
    watch_until_q(
        silent, arguments, b"no broker answered" if "monitor" in arguments else b"NO_LEADER"
    )


def watch_until_q(address: str, arguments: list[str], shown: bytes) -> None:
    """Run a command on a terminal, press q once this is shown: it ends, and well."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "tq_admin", *arguments, "-a", address],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "140", "LINES": "45"},
    )
    os.close(theirs)
    try:
        seen = b""
        while shown not in seen:
            more = _read(ours)
            assert more, f"{shown!r} never came; this did: {seen!r}"
            seen += more
        os.write(ours, b"q")
        rest = b""
        while chunk := _read(ours):
            rest += chunk
        assert running.wait(PATIENCE_S) == 0
    finally:
        running.kill()
        os.close(ours)
    assert b"Traceback" not in seen + rest


def _read(terminal: int) -> bytes:
    """What comes next; nothing once it has ended, or where nothing comes."""
    if not select.select([terminal], [], [], PATIENCE_S)[0]:
        return b""
    try:
        return os.read(terminal, 65_536)
    except OSError:  # how Linux says that the other side is closed
        return b""


def test_the_monitor_wants_a_terminal_and_names_what_does_not(admin: Admin) -> None:
    ran = admin("monitor")

    assert ran.code == 2
    assert "tq-admin stats --output json --watch" in ran.stderr


def test_watched_json_is_a_reading_a_line_and_a_failure_ends_nothing(
    admin: Admin, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter([cluster(leader=""), cluster(leader="n3")])

    def next_state(_seconds: float) -> None:
        following = next(states, None)
        if following is None:
            raise KeyboardInterrupt
        broker.cluster = following

    broker.cluster = cluster(leader="n2")
    monkeypatch.setattr("tq_admin.watch.time.sleep", next_state)

    ran = admin("cluster-status", "--watch", "1", "-o", "json")

    readings = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [reading["leader_id"] for reading in readings] == ["n2", "", "n3"]
    assert "the cluster has no leader" in ran.stderr
    assert ran.code == 0


def test_what_changes_something_cannot_be_watched(admin: Admin) -> None:
    assert admin("cancel", "a", "--watch", "1").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_complete_commands(shell: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tq_admin"],
        env=os.environ
        | {
            "_TQ_ADMIN_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": "tq-admin dead-letters re",
            "COMP_CWORD": "2",
            "_TYPER_COMPLETE_ARGS": "tq-admin dead-letters re",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert "redrive" in ran.stdout
