"""The commands of docs/languages.md, run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "languages.md").read_text()
PUBLIC = sorted(path.stem for path in (ROOT / "proto" / "tq" / "v1").glob("*.proto"))
STAND_INS = ("protoc-gen-go", "protoc-gen-go-grpc", "protoc-gen-grpc-java", "grpc_csharp_plugin")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with proto/, gen/ and the templates of the document."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    (tmp_path / "gen").mkdir()
    for block in blocks("yaml"):
        (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)
    return tmp_path


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A PATH with protoc, buf, this Python, and the stand-ins for the gRPC plugins."""
    plugins = tmp_path_factory.mktemp("plugins")
    script = Path(__file__).with_name("stand_in_plugin.py")
    for name in STAND_INS:
        path = plugins / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" {name}\n')
        path.chmod(0o755)
    tools = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{plugins}:{tools}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_every_command_of_the_document_makes_its_stubs(
    checkout: Path, environment: dict[str, str]
) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert [command.split()[0] for command in commands] == ["buf", "protoc", "protoc", "python"]

    for command in commands:
        ended = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"

    made = {str(path.relative_to(checkout / "gen")) for path in (checkout / "gen").rglob("*.*")}
    for plugin in STAND_INS:
        assert {f"{plugin}/tq/v1/{name}.proto.txt" for name in PUBLIC} <= made, plugin
    assert {"tq/v1/TaskOuterClass.java", "TaskService.cs", "tq/v1/task_service_pb2_grpc.py"} <= made


def test_go_is_told_one_import_path_for_all_files(
    checkout: Path, environment: dict[str, str]
) -> None:
    [command] = [block for block in blocks("sh") if block.startswith("buf")]

    subprocess.run(["/bin/sh", "-c", command], cwd=checkout, env=environment, check=True)

    told = {path.read_text() for path in (checkout / "gen").rglob("*.txt")}
    assert told == {"example.com/you/gen/tq/v1;tqv1"}
