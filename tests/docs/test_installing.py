"""Installing tq in a project of one's own, by the commands of docs/python.md."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from tests.docs.commands import ROOT, blocks
from tests.docs.reader import Reader
from tests.project.test_build import bare_checkout

pytestmark = pytest.mark.slow

TASKS = """\
from tq_worker import task


@task("pack", queue="shop")
def pack(order: int) -> str:
    return f"order {order} is packed"
"""


def lend_packages(environment: Path) -> None:
    """Let a virtual environment import this one's packages, but not the project's editable ones."""
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")


def test_a_project_of_ones_own_installs_tq_and_checks_its_handlers(tmp_path: Path) -> None:
    bare_checkout(tmp_path / "tq")
    project = tmp_path / "project"
    (project / "shop").mkdir(parents=True)
    (project / "shop" / "tasks.py").write_text(TASKS)
    [commands] = [
        text for _, text in blocks(ROOT / "docs" / "python.md") if "pip install ../tq" in text
    ]
    # Without the network: what pip would fetch is lent to it.
    offline = commands.replace("pip install", "pip install --no-deps --no-build-isolation")
    made, *others = offline.splitlines()
    reader = Reader(project)

    first = reader.type(made)
    lend_packages(project / ".venv")
    place = "python -c 'import tq_worker; print(tq_worker.__file__)'"
    ended = reader.type(" && ".join([*others, place]))

    assert first.returncode == 0, first.stderr
    assert ended.returncode == 0, ended.stdout + ended.stderr
    *_, handler, found = ended.stdout.splitlines()
    assert handler.split() == ["pack", "thread", "shop", "-"]
    assert Path(found).is_relative_to(project / ".venv")
    commands_there = {path.name for path in (project / ".venv" / "bin").iterdir()}
    assert {"tq-admin", "tq-cluster", "tq-worker"} <= commands_there
