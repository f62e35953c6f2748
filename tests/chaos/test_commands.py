"""The product's commands, as the suite runs them."""

from __future__ import annotations

import pytest

from chaos.cluster import commands
from chaos.cluster.commands import CommandFailedError

SHOW = "import os; print({key for key in os.environ if key.startswith('TQ_')})"


async def test_a_command_is_not_told_what_the_surrounding_shell_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TQ_NODE_ID", "n9")

    said = await commands.run(["-c", SHOW], {"TQ_ADDRESS": "here"})

    assert said == "{'TQ_ADDRESS'}\n"


async def test_a_command_that_fails_is_told_with_all_it_said() -> None:
    script = "import sys; print('looked'); sys.exit('no disk')"

    with pytest.raises(CommandFailedError, match="exit code 1\nlooked\nno disk"):
        await commands.run(["-c", script])


async def test_a_command_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "WITHIN_S", 0.1)

    with pytest.raises(CommandFailedError, match="no end"):
        await commands.run(["-c", "import threading; threading.Event().wait()"])
