"""Strings that users chose are shown, and do nothing else."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.admin.conftest import Admin
from tests.admin.fake_broker import FakeBroker, cluster
from tests.admin.test_monitor import drawn
from tq.v1 import task_pb2
from tq_admin.observer import Observation
from tq_client import Task
from tq_common.visible import visible

# Line ends, a terminal's own commands, markup of the library that draws, text turned around.
EVIL = "a\nb\x1b[2Jc\x9bd[/x]e\u202ef"
SHOWN = r"a\nb\x1b[2Jc\x9bd[/x]e\u202ef"


@pytest.fixture
def evil(admin: Admin, broker: FakeBroker) -> task_pb2.Task:
    """A dead letter with an id, a type, labels, a worker and errors of the worst kind."""
    admin("submit", "q", EVIL, "--id", EVIL, "--label", f"k={EVIL}", "--payload", EVIL)
    task = broker.tasks[EVIL]
    task.state = task_pb2.TASK_STATE_FAILED
    task.last_error = EVIL
    task.attempts.add(number=1, worker_id=EVIL, error=EVIL)
    return task


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["status", EVIL],
        ["dead-letters", "list"],
        ["dead-letters", "show", EVIL],
        ["status", f"{EVIL}, which is not there"],
        ["cancel", EVIL],
        ["dead-letters", "delete", f"{EVIL}, which is not there", "--yes"],
    ],
    ids=" ".join,
)
def test_no_command_lets_a_string_move_the_cursor_or_break_its_line(
    admin: Admin, evil: task_pb2.Task, command: list[str]
) -> None:
    ran = admin(*command)

    assert SHOWN in ran.stdout + ran.stderr
    for shown in (ran.stdout, ran.stderr):
        assert not set(shown) & {"\x1b", "\x9b", "\u202e"}
        # Only what may have several lines begins a new one: payload and error, below their names.
        assert not [line for line in shown.splitlines() if line.startswith("b")]


HIDDEN = "\x85\x9b\u200b\u2028\u202e\u2066\ufeff\U000e0041"
"""Controls of the second set, invisible ones, a line separator, text turned around, a tag."""


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["status", EVIL + HIDDEN],
        ["dead-letters", "list"],
        ["dead-letters", "show", EVIL + HIDDEN],
        ["status", f"{EVIL + HIDDEN}, which is not there"],
    ],
    ids=lambda command: " ".join(command[:2]).encode("ascii", "replace").decode(),
)
def test_output_for_programs_hides_nothing_from_a_terminal_and_reads_back_the_same(
    admin: Admin, broker: FakeBroker, form: str, command: list[str]
) -> None:
    name = EVIL + HIDDEN
    admin("submit", "q", name, "--id", name, "--label", f"{name}={name}", "--payload", name)
    task = broker.tasks[name]
    task.state = task_pb2.TASK_STATE_FAILED
    task.last_error = name
    task.attempts.add(number=1, worker_id=name, error=name)

    ran = admin(*command, "--output", form)

    for shown in (ran.stdout, ran.stderr):
        assert not [each for each in shown.replace("\n", "") if not each.isprintable()]
    if ran.stdout:
        read = json.loads(ran.stdout) if form == "json" else yaml.safe_load(ran.stdout)
        assert name in strings(read)


def strings(value: object) -> list[str]:
    """Every string in plain data."""
    if isinstance(value, dict):
        return [each for pair in value.items() for item in pair for each in strings(item)]
    if isinstance(value, list):
        return [each for item in value for each in strings(item)]
    return [value] if isinstance(value, str) else []


def test_the_monitor_shows_strings_as_they_are(evil: task_pb2.Task) -> None:
    cluster_ = cluster(leader="n2", down=("n3",))
    cluster_.nodes[2].unreachable_reason = EVIL
    seen = Observation(cluster=cluster_, dead=(Task.of(evil),), troubles=(EVIL,))

    lines = drawn(seen, 300)

    assert len([line for line in lines if SHOWN in line]) == 3
    assert "\x1b" not in "".join(lines)


def test_what_reads_well_stays_as_it_is_and_errors_keep_their_lines() -> None:
    assert visible("grün 🎉 naïve") == "grün 🎉 naïve"
    assert visible("one\n\ttwo\x07", lines=True) == "one\n\ttwo\\x07"
    assert visible("one\ntwo") == r"one\ntwo"
