"""Which names callers may choose."""

from __future__ import annotations

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from tq_cluster import config
from tq_cluster.raft import bounds
from tq_common import names

CHECKS = {
    "queue": (names.is_queue_name, 128, names.QUEUE_NAME_RULE),
    "type": (names.is_task_type, 128, names.TASK_TYPE_RULE),
    "task id": (names.is_task_id, 200, names.TASK_ID_RULE),
}


@pytest.mark.parametrize("kind", CHECKS)
def test_a_name_has_the_length_and_the_characters_that_its_rule_states(kind: str) -> None:
    check, most, rule = CHECKS[kind]
    _, _, characters = rule.partition(" characters of A-Z a-z 0-9 ")
    allowed = {"A", "z", "9", *characters.split()}

    assert rule.startswith(f"1 to {most} ")
    assert check("a" * most)
    assert not check("a" * (most + 1))
    assert not check("")
    printable = {chr(code) for code in range(33, 127) if not chr(code).isalnum()}
    assert {char for char in printable | allowed if check(char)} == allowed


@pytest.mark.parametrize("name", ["a\n", "a b", "\u0661", "\xe4", "a\x00"])
def test_a_name_is_ascii_and_has_no_blank_and_no_line_end(name: str) -> None:
    assert not any(check(name) for check, _, _ in CHECKS.values())
    assert not names.is_node_id(name)


@pytest.mark.parametrize(
    "name",
    ["n1", "9", "a" * 64, "a" * 65, "", ".n", "_n", "n.1_2-3", "n:1", "n1\n", "\xe4", "\u0661"],
)
def test_a_nodes_file_and_its_peers_agree_on_what_is_a_nodes_id(name: str) -> None:
    try:
        TypeAdapter(config.NodeId).validate_python(name)
        in_a_file = True
    except ValidationError:
        in_a_file = False

    assert in_a_file == bounds.is_name(name) == bool(names.is_node_id(name))
    assert in_a_file == bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name))


def test_a_nodes_file_and_its_peers_agree_on_how_many_members_there_may_be() -> None:
    assert config.MEMBERS_MAX == bounds.MEMBERS_MAX
