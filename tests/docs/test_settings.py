"""The tables of settings in docs/operations.md, and the settings that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer.main
from pydantic import BaseModel

import tq_admin.__main__
import tq_cluster.__main__
from tq_admin import command
from tq_cluster import config as node_config
from tq_process.settings.setting import Setting
from tq_worker.cli import command as worker_command
from tq_worker.cli.config import WorkerConfig
from tq_worker.cli.settings import SETTINGS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operations.md").read_text()
PACKAGES = ("tq_admin", "tq_client", "tq_cluster", "tq_common", "tq_process", "tq_worker")
VARIABLE = re.compile(r"\b(?:TQ|OTEL)_[A-Z_]+\b")
REQUIRED = "required"

Line = tuple[str, ...]
"""What a table says of one setting, without the meaning. An empty default: it says it in words."""


def table(heading: str) -> list[Line]:
    """The lines below a heading, their markup taken off."""
    chapter = TEXT.partition(f"\n### {heading}\n")[2].partition("\n##")[0]
    rows = re.findall(r"^\|(.+)\|$", chapter, re.MULTILINE)[2:]
    cells = [[cell.strip() for cell in row.split("|")] for row in rows]
    return [(*(cell.strip("`") for cell in row[:-2]), _default_of(row[-2])) for row in cells]


def _default_of(cell: str) -> str:
    # What is no code and not required is a default in words.
    return cell.strip("`") if cell.startswith("`") or cell == REQUIRED else ""


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Every field of a file with its default, those in sections by their section."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*path, name))
        else:
            default = REQUIRED if field.is_required() else str(field.default or "")
            yield ".".join((*path, name)), default


def flags_of(app: typer.Typer, name: str) -> list[str]:
    """The flags of a command, those that its help shows."""
    group = typer.main.get_command(app)
    found = group.commands[name].params  # type: ignore[attr-defined] # of a group, which it is
    return [parameter.opts[0] for parameter in found if not parameter.hidden]


def of_a_file(settings: Sequence[Setting], model: type[BaseModel]) -> list[Line]:
    by_name = {setting.name: setting for setting in settings}
    assert sorted(by_name) == sorted(name for name, _ in leaves(model))
    return [
        (name, by_name[name].environment, by_name[name].flag, default)
        for name, default in leaves(model)
    ]


def admin() -> list[Line]:
    group = typer.main.get_command(tq_admin.__main__.app)
    defaults = {"--output": "table", "--timeout": command.DEFAULT_TIMEOUT}
    flags = [
        parameter.opts[0]
        for parameter in group.params
        if "completion" not in (parameter.name or "")
    ]
    variables = {"--address": "TQ_ADDRESS"}
    return [
        *((flag, variables.get(flag, ""), defaults.get(flag, "")) for flag in flags),
        ("", "TQ_DEBUG", ""),
    ]


@pytest.mark.parametrize(
    ("heading", "settings"),
    [
        ("Of a broker", of_a_file(node_config.SETTINGS, node_config.NodeConfig)),
        ("Of a worker", of_a_file(SETTINGS, WorkerConfig)),
        ("Of tq-admin and the clients", admin()),
    ],
    ids=["broker", "worker", "admin"],
)
def test_every_setting_has_its_line_and_every_line_its_setting(
    heading: str, settings: Sequence[Line]
) -> None:
    assert sorted(table(heading)) == sorted(settings)


def test_what_a_broker_can_be_told_can_be_told_by_flag_and_checked_beforehand() -> None:
    app = tq_cluster.__main__.app
    flags = ["--config", *(setting.flag for setting in node_config.SETTINGS)]

    assert flags_of(app, "serve") == flags_of(app, "check-config") == flags


def test_a_worker_is_checked_with_the_flags_that_it_runs_with() -> None:
    app = worker_command.app
    flags = ["--config", *(setting.flag for setting in SETTINGS)]

    assert flags_of(app, "run") == flags_of(app, "check") == flags_of(app, "check-config") == flags


def test_every_variable_that_is_looked_at_is_in_a_table_and_no_other_is() -> None:
    code = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    read = {name for path in code for name in VARIABLE.findall(path.read_text())}
    headings = (
        "Of a broker",
        "Of a worker",
        "Of tq-admin and the clients",
        "Of OpenTelemetry",
    )
    told = {cell for heading in headings for line in table(heading) for cell in line}

    assert {cell for cell in told if VARIABLE.fullmatch(cell)} == read


def test_every_variable_of_the_units_and_the_compose_file_is_explained() -> None:
    documents = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    files = [ROOT / "docker-compose.cluster.yml", *(ROOT / "deploy" / "systemd").iterdir()]
    named = {name for path in files for name in VARIABLE.findall(path.read_text())}

    assert not {name for name in named if name not in documents}
