"""docs/admin.md and the commands that there are."""

from __future__ import annotations

import re
from pathlib import Path

from tq_admin.__main__ import app

DOCUMENT = Path(__file__).parents[2] / "docs" / "admin.md"
COMMAND = re.compile(r"`tq-admin ([a-z-]+(?: [a-z]+)?)")


def commands() -> set[str]:
    """Every command, those of groups with their group."""
    names = {str(command.name) for command in app.registered_commands}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        inside = group.typer_instance.registered_commands
        names |= {f"{group.name} {command.name}" for command in inside}
    return names


def test_every_command_is_documented_and_every_documented_one_is_there() -> None:
    named = set(COMMAND.findall(DOCUMENT.read_text()))

    assert {name for name in named if not name.startswith("-")} == commands()
