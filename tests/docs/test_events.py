"""The events in a task's life, as docs/monitoring.md lists them."""

from __future__ import annotations

import re
from pathlib import Path

from tq_cluster.core.model.events import What as OfTasks
from tq_worker.telemetry.events import What as OfAttempts

TEXT = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()


def test_every_event_of_a_tasks_life_is_explained_and_no_other_is() -> None:
    table = TEXT.partition("| event | logged by |")[2].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `([a-z ]+)` \| (\w+)", table, re.MULTILINE))

    assert {name for name, by in told.items() if by == "leader"} == {each.value for each in OfTasks}
    assert {name for name, by in told.items() if by == "worker"} == {
        each.value for each in OfAttempts
    }
